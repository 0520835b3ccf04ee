"""Scene graphs from all files that have them, and what is refused in them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oculex.contracts import BadSample, UserError
from oculex.data.graphs import graph_of
from oculex.data.graphs.facts import GENERATORS as BY_NAME
from oculex.data.graphs.facts import Fact, Known, phrasings, pick
from oculex.data.graphs.generators import chosen
from oculex.data.graphs.words import attribute_type, countable, listed, number, plural
from oculex.data.sources import open_source
from tests.curation.toys import gqa, graph, png

WHOLE = {
    "width": 40,
    "height": 30,
    "objects": [
        {"object_id": 5, "names": ["Chair "], "attributes": ["red", "red"], "x": 1, "y": 2, "w": 8, "h": 9},
        {"object_id": 9, "names": ["dog"], "attributes": [], "x": 20, "y": 2, "w": 8, "h": 9},
        {"object_id": 7, "names": ["dog"], "visible": False},
    ],
    "relationships": [
        {"predicate": "near", "subject_id": 5, "object_id": 9},
        {"predicate": "near", "subject_id": 5, "object_id": 7},
    ],
}


def parsed(**changes):
    extra = {key: changes.pop(key) for key in ("depth", "instances") if key in changes}
    return graph_of({"id": "x", "graph": WHOLE | changes, **extra})


def test_a_graph_is_brought_into_one_form():
    found = parsed()
    assert [thing.label for thing in found.things] == ["chair", "dog"]
    assert found.things[0].attributes == ("red",)
    assert found.things[0].box == (1, 2, 9, 11)
    assert found.links == ((0, "near", 1),)
    assert found.unsure == {"dog"}
    assert found.alone(0)
    assert not found.alone(1)


def test_depth_and_segments_follow_the_things_that_are_seen():
    depth = np.zeros((30, 40), np.float32)
    instances = np.zeros((30, 40), np.uint8)
    for n, (rows, far) in enumerate(((slice(0, 9), 2.0), (slice(9, 20), 5.0), (slice(20, 30), 9.0)), 1):
        depth[rows], instances[rows] = far, n
    depth[0, 0] = 0
    order = [WHOLE["objects"][2], *WHOLE["objects"][:2]]  # the one that is hardly seen comes first
    found = parsed(objects=order, depth=depth, instances=instances)
    assert [thing.label for thing in found.things] == ["chair", "dog"]
    assert found.distances == (5.0, 9.0)
    assert set(np.unique(found.segments)) == {0, 1, 2}
    assert np.isnan(found.depth[0, 0])
    assert found.spread == 7.0


BAD = [
    {"width": -1}, {"width": "40"}, {"height": float("inf")}, {"objects": "many"}, {"objects": [3]},
    {"objects": [{"names": []}]}, {"objects": [{"names": ["a" * 500]}]}, {"objects": [{"names": ["a\x07"]}]},
    {"objects": [{"names": ["a"], "attributes": "red"}]}, {"objects": [{"names": ["a"], "attributes": [3]}]},
    {"objects": [{"names": ["a"], "x": 1}]}, {"objects": [{"names": ["a"], "x": 1, "y": 1, "w": -4, "h": 2}]},
    {"objects": [{"names": ["a"], "x": 1, "y": 1, "w": 400, "h": 2}]},
    {"objects": [{"names": ["a"], "pixel_coords": [1, 2]}]},
    {"objects": [WHOLE["objects"][0], WHOLE["objects"][0]]}, {"objects": [{"names": ["a"]}] * 1001},
    {"relationships": [{"predicate": "on", "subject_id": 5, "object_id": 1}]},
    {"relationships": [{"predicate": None, "subject_id": 5, "object_id": 9}]}, {"relationships": [{}]},
    {"instances": np.full((30, 40), 9, np.uint8)}, {"instances": np.zeros((30, 40), np.float32)},
    {"instances": np.zeros(40, np.uint8)},
    {"depth": np.ones((30, 40), np.float32), "instances": np.zeros((3, 4), np.uint8)},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD)
def test_broken_graphs_are_refused_with_a_reason(change):
    with pytest.raises(BadSample, match=r"broken|depth"):
        parsed(**change)
    with pytest.raises(BadSample, match="no scene graph"):
        graph_of({"id": "x", "graph": [1]})


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 50) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["width", "height", "objects", "relationships", "names", "x", "y", "w", "h", "attributes"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(trees)
@settings(max_examples=150, deadline=None)
def test_whatever_a_graph_is_it_is_read_or_refused(tree):
    try:
        found = graph_of({"id": "x", "graph": tree})
    except BadSample:
        return
    rng = np.random.default_rng(0)
    for each in BY_NAME.values():
        each.find([found] if not each.several else [found, found], rng, Known())


def visual_genome(folder):
    folder.mkdir()
    things = [
        {"object_id": 1, "names": ["chair"], "x": 0, "y": 0, "w": 8, "h": 8, "synsets": []},
        {"object_id": 2, "names": ["lamp"], "x": 12, "y": 10, "w": 8, "h": 8},
    ]
    link = {
        "relationship_id": 4,
        "predicate": "NEAR",
        "subject": things[0] | {"name": "chair"},
        "object": things[1],
    }
    rows = {
        "objects.json": [{"image_id": 7, "objects": things}],
        "attributes.json": [{"image_id": 7, "attributes": [things[0] | {"attributes": ["red", "wooden"]}]}],
        "relationships.json": [{"image_id": 7, "relationships": [link]}],
        "image_data.json": [{"image_id": 7, "width": 40, "height": 30, "coco_id": None, "url": "x"}],
    }
    for name, told in rows.items():
        (folder / name).write_text(json.dumps(told))
    (folder / "VG_100K_2").mkdir()
    (folder / "VG_100K_2" / "7.jpg").write_bytes(png())
    return folder


def test_visual_genome_is_merged_from_its_files(tmp_path):
    source = open_source(str(visual_genome(tmp_path / "vg")))
    assert len(source) == 1
    found = graph_of(source[0])
    assert (found.width, found.height) == (40, 30)
    assert [(thing.label, thing.attributes) for thing in found.things] == [
        ("chair", ("red", "wooden")),
        ("lamp", ()),
    ]
    assert found.links == ((0, "near", 1),)
    whole = [
        {
            "image_id": 7,
            "objects": [
                {"object_id": 1, "names": ["chair"], "attributes": ["red"], "x": 0, "y": 0, "w": 8, "h": 8}
            ],
            "relationships": [{"predicate": "on", "subject_id": 1, "object_id": 1, "relationship_id": 1}],
        }
    ]
    file = tmp_path / "vg" / "scene_graphs.json"
    file.write_text(json.dumps(whole))
    alone = graph_of(open_source(str(file))[0])
    assert (alone.width, alone.height) == (40, 30)  # the picture's own
    assert alone.links == ()  # nothing is related to itself


def test_gqa_is_read(tmp_path):
    source = open_source(str(gqa(tmp_path / "gqa", {"3": graph(3)})))
    found = graph_of(source[0])
    assert [thing.label for thing in found.things] == ["chair", "lamp", "dog", "lamp"]
    assert found.links == ((0, "near", 1), (2, "behind", 0))
    before = source.fingerprint()
    (tmp_path / "gqa" / "3.jpg").write_bytes(png((1, 2, 3), (80, 60)))
    assert open_source(str(tmp_path / "gqa")).fingerprint() != before


def test_maps_that_could_run_code_are_refused(tmp_path):
    tree = {
        "a": {
            "data_path": "a.png",
            "annotation": {
                "width": 40, "height": 30, "labels": ["dog"], "bboxes": [[0, 0, 8, 8]], "seg_mask_id": "a_mask.pkl",
            },
        }
    }  # fmt: skip
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "annotations.json").write_text(json.dumps(tree))
    with pytest.raises(BadSample, match="pickle"):
        open_source(str(tmp_path))[0]
    tree["a"]["annotation"]["seg_mask_id"] = "a_mask.npy"
    (tmp_path / "annotations.json").write_text(json.dumps(tree))
    for array in (np.array([{"a": 1}], dtype=object), np.zeros((30, 40)), np.zeros((1, 3, 4), "U4")):
        np.save(tmp_path / "a_mask.npy", array, allow_pickle=True)
        with pytest.raises(BadSample, match="map"):
            open_source(str(tmp_path))[0]
    (tmp_path / "a_mask.npy").write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(BadSample):
        open_source(str(tmp_path))[0]
    np.save(tmp_path / "a_mask.npy", np.ones((1, 30, 40), bool))
    assert open_source(str(tmp_path))[0]["instances"].max() == 1


@pytest.mark.parametrize("text", ['{"1": {"width": 4, "relations": 3, "objects": 4}}', "[1, 2"])
def test_files_that_only_look_like_graphs_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "g.json").write_text(
        text.replace("{", '{"relations": 1, "x": ', 1) if "relations" in text else text
    )
    with pytest.raises(UserError) as error:
        open_source(str(tmp_path / "g.json"))
    assert "\n" not in str(error.value)


def test_clevr_scenes_have_relations_and_distances_and_no_boxes(real_data, evidence):
    if not (real_data / "clevr_mini").is_dir():
        pytest.skip("no clevr_mini among the real data")
    source = open_source(str(real_data / "clevr_mini" / "scenes"))
    found = [graph_of(source[n]) for n in range(len(source))]
    assert len(found) == 10
    for each in found:
        assert all(
            thing.box is None and thing.distance > 0 and len(thing.attributes) == 3 for thing in each.things
        )
        for i, predicate, j in each.links:  # what is in front is nearer
            if predicate == "in front of":
                assert (j, "behind", i) in each.links
    made = open_source(f"made:provision:{real_data / 'clevr_mini' / 'scenes'}")
    asked = [question for n in range(len(made)) for question in made[n]["questions"]]
    kinds = {question["kind"] for question in asked}
    assert {"exists_object", "exists_attribute", "head_relation", "scene_graph_object_qa"} <= kinds
    assert not kinds & {"left_most_object", "attribute_bbox", "closer_point"}
    evidence("provision", "real_data", clevr_scenes=len(found), questions=len(asked), kinds=len(kinds))


def test_coco_boxes_are_graphs_of_objects_alone(real_data, evidence):
    file = real_data / "tiny_coco" / "annotations" / "instances_train2017.json"
    if not file.is_file():
        pytest.skip("no tiny_coco among the real data")
    made = open_source(f"made:provision:{file}")
    tree = json.loads(file.read_text())
    names = {each["id"]: each["name"] for each in tree["categories"]}
    asked, refused = [], 0
    for n in range(len(made)):
        try:
            sample = made[n]
        except BadSample:
            refused += 1
            continue
        asked += sample["questions"]
        image = next(each["id"] for each in tree["images"] if each["file_name"] == sample["id"])
        truth: dict[str, int] = {}
        for each in tree["annotations"]:
            if each["image_id"] == image and not each["iscrowd"]:
                truth[names[each["category_id"]]] = truth.get(names[each["category_id"]], 0) + 1
        for question in sample["questions"]:
            if question["kind"] == "exists_object":
                label = next(name for name in truth if f" {plural(name)}" in question["question"])
                assert {str(truth[label]), number(truth[label])} & {question["answer"].split(" ")[-1]}
    assert len(asked) > 2 * len(made)
    kinds = {question["kind"] for question in asked}
    assert kinds <= {
        "exists_object", "most_object", "least_object", "left_most_object", "right_most_object", "top_most_object",
        "bottom_most_object",
    }  # fmt: skip
    evidence("provision", "real_data", coco_pictures=len(made), questions=len(asked), nothing_to_ask=refused)


def test_english():
    assert [plural(word) for word in ("box", "city", "toy", "man", "snowman", "hot dog", "knife", "bus")] == [
        "boxes", "cities", "toys", "men", "snowmen", "hot dogs", "knives", "buses",
    ]  # fmt: skip
    assert [countable(word) for word in ("chair", "people", "glass", "bus", "chairs", "tennis racket", "grass")] == [
        True, False, False, True, False, True, False,
    ]  # fmt: skip
    assert [number(n) for n in (0, 13, 40, 57, 100, 213, 1001)] == [
        "zero", "thirteen", "forty", "fifty-seven", "one hundred", "two hundred and thirteen", "one thousand and one",
    ]  # fmt: skip
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b, and c")
    assert [attribute_type(word) for word in ("red", "dark blue", "wooden", "asleep", "tiny")] == [
        "colour", "colour", "material", "other", "size",
    ]  # fmt: skip
    assert phrasings("[|tell me ]how [many|few]?") == (
        "how many?", "how few?", "tell me how many?", "tell me how few?",
    )  # fmt: skip


def test_what_is_rare_is_asked_rather():
    facts = [Fact({}, ("x",), "x", (), (f"object {name}",)) for name in ("rare", "common")]
    known = Known(counts={"object rare": 1, "object common": 2})
    for balance, share in ((0.0, 1 / 2), (1.0, 2 / 3), (3.0, 8 / 9)):
        rng = np.random.default_rng(0)
        drawn = sum(pick(facts, 1, balance, known, rng)[0] is facts[0] for _ in range(2000))
        assert abs(drawn / 2000 - share) < 0.04


def test_generators_are_chosen_by_name_and_by_category():
    assert len(chosen("all", False)) == 24
    assert len(chosen("all", True)) == 14
    assert [each.name for each in chosen("depth+exists_object", False)] == [
        "exists_object", "closer_point", "farther_point",
    ]  # fmt: skip
    assert {each.category for each in chosen("object_depth+scene_graph", False)} == {
        "object depth",
        "scene graph",
    }
    with pytest.raises(UserError, match="several pictures"):
        chosen("depth", True)
