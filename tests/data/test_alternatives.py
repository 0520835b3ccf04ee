"""ARO's and SugarCrepe's files as a source, whole and broken; and the world's own questions, which must hold."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from oculex.contracts import BadSample, UserError
from oculex.data.sources import open_source
from oculex.data.sources.alternatives import LEAST, UNCOUNTED, CompositionPairs
from oculex.data.sources.captions import CaptionedImages
from oculex.world import SceneConfig, make_scene
from oculex.world.alternatives import alternatives
from oculex.world.camera import survey
from oculex.world.english import PHRASE
from oculex.world.relations import between


def halves():
    """Left half red, right half blue, 20 x 10."""
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10, 0] = pixels[:, 10:, 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(3):
        (tmp_path / "images" / f"{n}.png").write_bytes(halves())
    return tmp_path


def aro(**more):
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 10, "bbox_h": 10}
    row = {
        "image_path": "0.png",
        "true_caption": "the cat is on the mat",
        "false_caption": "the mat is on the cat",
    }
    return row | box | {"relation_name": "on"} | more


def written(folder, rows, name="visual_genome_relation.json"):
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return open_source(str(folder / name))


def test_the_box_is_cut_out_and_the_question_comes_with_it(folder):
    source = written(folder, [aro(), aro(bbox_x=10, image_path="1.png", relation_name="near")])
    assert isinstance(source, CompositionPairs)
    left, right = source[0], source[1]
    assert left["image"].shape == (10, 10, 3)
    assert (left["image"] == [255, 0, 0]).all()
    assert (right["image"] == [0, 0, 255]).all()
    assert left["alternatives"] == [
        {"kind": "relation", "group": "on", "true": "the cat is on the mat", "false": ["the mat is on the cat"],
         "picture": "0.png"}
    ]  # fmt: skip
    assert (
        right["alternatives"][0]["group"] == ""
    )  # symmetric: asked, and left out of the mean over relations
    assert left["id"] != right["id"]


def test_rare_pairs_of_attributes_are_asked_and_not_counted(folder):
    rows = [aro(attributes=["old", "red"]) for _ in range(LEAST)] + [aro(attributes=["wet", "tall"])] * (
        LEAST - 1
    )
    rows = [{key: value for key, value in row.items() if key != "relation_name"} for row in rows]
    source = written(folder, rows, "visual_genome_attribution.json")
    groups = [source[n]["alternatives"][0]["group"] for n in range(len(source))]
    assert groups == ["old, red"] * LEAST + [""] * (LEAST - 1)
    assert source[0]["alternatives"][0]["kind"] == "attribution"


def test_the_relations_left_out_are_words():
    assert {"near", "next to", "coming from", "walking down", "adjusting"} <= UNCOUNTED
    assert not any(name != name.strip() or "\n" in name or not name for name in UNCOUNTED)
    assert len(UNCOUNTED) == 157


def sugar(**more):
    row = {
        "filename": "2.png",
        "caption": "a red and a blue half",
        "negative_caption": "a blue and a red half",
    }
    return row | more


def test_sugarcrepes_files_are_kinds_of_one_source(folder):
    written(folder, {"0": sugar(), "7": sugar(filename="1.png")}, "swap_att.json")
    written(folder, {"0": sugar()}, "add_obj.json")
    source = open_source(str(folder))
    assert [source[n]["alternatives"][0]["kind"] for n in range(3)] == ["add_obj", "swap_att", "swap_att"]
    assert [source[n]["id"] for n in range(3)] == ["add_obj#0", "swap_att#0", "swap_att#1"]
    assert source[1]["image"] == halves()
    before = source.fingerprint()
    written(folder, {"0": sugar(caption="other")}, "add_obj.json")
    assert open_source(str(folder)).fingerprint() != before


def test_the_real_files_open(real_data, tmp_path):
    """All of SugarCrepe's rows, beside one stand-in picture, for COCO's are not there."""
    counts = {}
    (tmp_path / "val2017").mkdir()
    for path in sorted((real_data / "sugar_crepe").glob("*.json")):
        (tmp_path / path.name).symlink_to(path)
        rows = json.loads(path.read_text(encoding="utf-8"))
        counts[path.stem] = len(rows)
        (tmp_path / "val2017" / next(iter(rows.values()))["filename"]).write_bytes(halves())
    source = open_source(str(tmp_path))
    assert len(source) == sum(counts.values()) == 7511
    assert not source.bad
    first = source[0]["alternatives"][0]
    assert first["kind"] == "add_att"
    assert first["true"] != first["false"][0]
    with pytest.raises(BadSample, match="cannot be read"):
        source[1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (aro(bbox_w="10"), "not four whole numbers"),
        (aro(bbox_h=True), "not four whole numbers"),
        (aro(bbox_x=400), "lies outside"),
        (aro(bbox_w=-5), "lies outside"),
        (aro(image_path="../../secret.png"), "leads out|cannot be read"),
        (aro(image_path=7), "has no image_path"),
        (aro(true_caption=" "), "has no true_caption"),
        (aro(false_caption=None), "has no false_caption"),
        (aro(false_caption="\ud83d"), "broken character"),
        (aro(relation_name=None), "neither a relation_name nor attributes"),
        ("row", "not a row"),
        (sugar(negative_caption=["x"]), "has no negative_caption"),
        ({"filename": "0.png", "caption": "x"}, "has no negative_caption"),
    ],
)
def test_a_broken_row_is_named(folder, row, said):
    source = written(folder, [aro(), row])
    found = []
    for n in range(len(source)):
        try:
            source[n]
        except BadSample as bad:
            found.append(str(bad))
    assert len(found) == 1
    assert __import__("re").search(said, found[0]), found


def test_a_huge_box_costs_no_memory(folder):
    source = written(folder, [aro(bbox_x=-(10**9), bbox_y=-5, bbox_w=10**12, bbox_h=10**12)])
    assert source[0]["image"].shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"true_caption": "a", "false_caption": "b"', "cannot read"),
        ('"false_caption"', "neither a list nor a mapping"),
        ('[{"false_caption": 1}]', "no row with a picture"),
        ('[{"image_path": "9.png", "true_caption": "a", "false_caption": "b", "relation_name": "on", "bbox_x": 0, '
         '"bbox_y": 0, "bbox_w": 1, "bbox_h": 1}]', "neither beside it nor in a folder"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_says_so_in_one_line(folder, text, said):
    (folder / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        open_source(str(folder / "a.json"))


def test_captions_stay_captions(folder):
    """COCO's and Flickr's files in Karpathy's split are captions; their orders are asked of any captioned source."""
    rows = [
        {"image": "images/0.png", "caption": ["one", "two"]},
        {"image": "images/1.png", "caption": ["three"]},
    ]
    source = written(folder, rows, "coco_karpathy_test.json")
    assert isinstance(source, CaptionedImages)
    assert source[0]["captions"] == ["one", "two"]


# ------------------------------------------------------------------------------------------------ the world


def test_the_worlds_true_statements_hold_and_its_false_ones_do_not():
    counts = {"relation": 0, "attribution": 0}
    said = {words[0]: name for name, words in PHRASE.items()}
    for index in range(150):
        scene = make_scene(3, index, replace(SceneConfig(), split="test"))
        seen = survey(scene)
        concepts = [thing.concept for thing in scene.objects]

        def holds(kind, text, scene=scene, seen=seen, concepts=concepts):
            shown = {name for n, name in enumerate(concepts) if seen.visible(n)}
            if kind == "attribution":
                parts = [part.split(" ", 1)[1] for part in text.split(" and ")]
                return set(parts) <= shown, [part in concepts for part in parts]
            phrase = next(words for words in said if f" {words} " in text)
            a, b = (part.split(" ", 1)[1] for part in text.split(f" {phrase} "))
            assert {a, b} <= shown
            return said[phrase] in between(scene, concepts.index(a), concepts.index(b)), None

        for each in alternatives(scene, np.random.default_rng(index)):
            counts[each["kind"]] += 1
            assert holds(each["kind"], each["true"])[0]
            for false in each["false"]:
                wrong, parts = holds(each["kind"], false)
                assert not wrong
                assert parts is None or not any(parts)
                assert set(false.split()) - {"a", "an"} == set(each["true"].split()) - {"a", "an"}
    assert min(counts.values()) > 60


def test_the_held_out_scenes_alone_have_the_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("OCULEX_CACHE", str(tmp_path))
    source = open_source("world:scenes=12,size=16,held_keys=alternatives")
    assert "alternatives" not in source[0]
    assert "alternatives" in source.held_out()[0]
    assert source.fingerprint() == open_source("world:scenes=12,size=16").fingerprint()
    assert source.held_out().fingerprint() != open_source("world:scenes=12,size=16").held_out().fingerprint()
    with pytest.raises(UserError, match="keys='sounds'"):
        open_source("world:held_keys=sounds")
