"""The world's ground truth as keys of a sample: what is asked for, nothing else, and all of it about one scene."""

from pathlib import Path

import pytest

from oculex.contracts import UserError
from oculex.data.schema import SCHEMA
from oculex.data.sources import embedded, open_source
from oculex.world import SENSORS, class_names, look, render

SPEC = "world:scenes=12,size=32"
EVERYTHING = f"{SPEC},keys={'+'.join(SENSORS)}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OCULEX_CACHE", str(tmp_path))


def test_every_sensor_is_a_key_of_the_schema_and_costs_nothing_unasked(monkeypatch):
    assert set(SENSORS) <= set(SCHEMA)
    plain = open_source(SPEC)[3]
    assert set(plain) == {"id", "image", "captions", "label"}
    monkeypatch.setattr(embedded, "_build", None)  # the pictures are shared: nothing is drawn again
    asked = open_source(EVERYTHING)[3]
    assert set(asked) == set(plain) | set(SENSORS)
    assert (asked["image"] == plain["image"]).all()
    assert asked["captions"] == plain["captions"]


def test_all_keys_speak_of_the_pictured_scene():
    source = open_source(EVERYTHING)
    for index in range(len(source)):
        sample, scene = source[index], source.scene(index)
        view = look(scene, 32)
        assert (sample["image"] == render(scene, 32)).all()
        assert (sample["depth"] == view.depth).all()
        assert (sample["instances"] == view.instances).all()
        assert (sample["boxes"] == view.boxes).all()
        named = {i: class_names().index(thing.concept) + 1 for i, thing in enumerate(scene.objects)}
        for i, number in named.items():
            assert set(sample["semantic"][sample["instances"] == i + 1].tolist()) <= {number}
        assert (sample["semantic"][sample["instances"] == 0] == 0).all()
        assert named[0] == sample["label"] + 1
        assert [thing["names"][0] for thing in sample["graph"]["objects"]] == [o.shape for o in scene.objects]
        assert {"question", "answer", "kind"} == set(sample["questions"][0])
        assert sample["questions"] == source[index]["questions"]


def test_held_out_scenes_have_the_same_keys_and_are_others():
    held = open_source(EVERYTHING).held_out()
    assert set(SENSORS) < set(held[0])
    assert held.scene(0) != open_source(EVERYTHING).scene(0)


def test_styles_and_languages_take_turns():
    texts = open_source(f"{SPEC},style=alt+detailed,language=en+de+zh,captions=7")[5]["captions"]
    english, german, chinese = ([texts[n], texts[n + 3]] for n in range(3))
    assert all(text.isascii() for text in english)
    assert all(" ein" in f" {text.lower()}" for text in german)
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in chinese)
    assert len(english[1]) > 2 * len(english[0])
    assert len(texts) == 7
    assert texts[6].isascii()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("keys=depth+sound", "keys='sound' is not one of depth, instances"),
        ("style=noisy,language=de", "'noisy' captions are in English only"),
        ("language=en+fr", "no captions 'alt' in 'fr'"),
        ("style=poem", "styles are alt, detailed"),
    ],
)
def test_a_mistake_names_what_there_is(spec, said):
    with pytest.raises(UserError, match=said):
        open_source(f"world:{spec}")


def test_only_what_draws_scenes_makes_the_cache_stale(tmp_path, monkeypatch):
    import oculex.world

    copy = tmp_path / "world"
    copy.mkdir()
    for path in Path(oculex.world.__file__).parent.glob("*.py"):
        (copy / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(oculex.world, "__file__", str(copy / "__init__.py"))
    found = {}
    for name in ("", "questions", "sensors", "raycast", "german", "font", "motion"):
        if name:
            with (copy / f"{name}.py").open("a") as file:
                file.write("# changed\n")
        embedded._version.cache_clear()
        found[name] = embedded._version()
    embedded._version.cache_clear()
    assert found[""] == found["questions"] == found["sensors"]
    assert len(set(found.values())) == len(found) - 2
