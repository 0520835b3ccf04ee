"""P9D's annotations: both layouts, one industry or all, and files that are none."""

import json

import pytest
from PIL import Image

from oculex.contracts import BadSample, UserError
from oculex.data.sources import open_source
from oculex.data.sources.products import holds_products

TRAIN = {
    "母婴": {
        "11": {"title": "Blue bottle", "cate_name": "bottles"},
        "12": {"title": " ", "cate_name": "bottles"},
    },
    "3C数码": {"21": {"image_link": "https://…", "title": "phone", "cate_name": "phones"}},
}
TEST = {
    "31": {"title": "cot", "cate_name": "beds", "industry_name": "母婴"},
    "32": {"title": "lamp", "cate_name": "lights", "industry_name": "3C数码"},
}


@pytest.fixture
def p9d(tmp_path):
    """Annotations in json/, pictures in folders beside it."""
    for name, tree, pictures in (("train", TRAIN, ("11", "21")), ("gallery", TEST, ("31", "32"))):
        (tmp_path / "json").mkdir(exist_ok=True)
        (tmp_path / "json" / f"{name}.json").write_text(
            json.dumps(tree, ensure_ascii=False), encoding="utf-8"
        )
        (tmp_path / f"{name}_images").mkdir()
        for number in pictures:
            Image.new("RGB", (8, 8)).save(tmp_path / f"{name}_images" / f"{number}.jpg")
    return tmp_path / "json"


def test_an_industry_is_a_source_of_its_own(p9d):
    whole = open_source(str(p9d / "train.json"))
    assert [whole[n]["captions"] for n in range(2)] == [["Blue bottle"], ["phone"]]
    phones = open_source(f"{p9d}/train.json#3C数码")
    assert (len(phones), phones[0]["captions"], phones[0]["id"]) == (1, ["phone"], "21.jpg")
    assert phones[0]["image"].startswith(b"\xff\xd8")
    assert phones.name == f"{p9d}/train.json#3C数码"
    assert phones.fingerprint() != whole.fingerprint()


def test_the_test_files_name_the_industry_of_each_item(p9d):
    assert open_source(f"{p9d}/gallery.json#母婴")[0]["captions"] == ["cot"]
    assert len(open_source(f"{p9d}/gallery.json")) == 2


def test_a_product_without_a_title_is_a_bad_sample(p9d):
    baby = open_source(f"{p9d}/train.json#母婴")
    assert len(baby) == 2
    with pytest.raises(BadSample, match="12"):
        baby[1]


def test_an_industry_that_is_not_there_is_named_with_those_that_are(p9d):
    with pytest.raises(UserError, match="'toys'; it has 母婴, 3C数码"):
        open_source(f"{p9d}/train.json#toys")


@pytest.mark.parametrize(
    "text", ["[1]", '{"a": {"title": 1}}', '{"images": [], "annotations": []}', "no", '{"a": {']
)
def test_other_files_are_not_taken_for_products(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert not holds_products(path)
