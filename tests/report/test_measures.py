"""How numbers are written, what chance is, and which number comes first."""

from __future__ import annotations

import math

import pytest

from oculex.report.measures import (
    Measure,
    chance,
    duration,
    headlines,
    is_chance,
    number,
    share,
    span,
    titles,
    untrained,
)
from tests.report.conftest import estimate, metrics


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.61234, "0.612"), (12345.6, "12,346"), (-3.5, "−3.5"), (2.5e-5, "2.50e−5"), (None, "–"),
     (math.nan, "–"), (-math.inf, "−∞"), (31_000_000, "3.10e7")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_shares_and_spans():
    assert share(0.6117) == "61.2\u202f%"
    assert share(0.00833) == "0.83\u202f%"
    assert share(None) == share(math.inf) == "–"
    assert span(0.589, 0.634, True) == "58.9 to 63.4\u202f%"
    assert span(3, 4) == "3 to 4"
    assert span(-math.inf, math.inf) == span(None, 1.0) == "no interval"


def test_durations():
    assert [duration(s) for s in (9.4, 150, 180, 3600, 7505)] == [
        "9 s",
        "2 min 30 s",
        "3 min",
        "1 h",
        "2 h 05 min",
    ]


def test_a_name_is_taken_apart():
    m = Measure.of("my/photos/retrieval/text_to_image_r5")
    assert (m.set, m.task, m.direction, m.share) == ("my/photos", "retrieval", "text_to_image", True)
    assert m.title == "Retrieval, text to image, recall at 5"
    unknown = Measure.of("world/counting/off_by")
    assert (unknown.label, unknown.share) == ("off by", False)
    assert unknown.text(0.5) == "0.5"


def test_kinds_of_questions_are_read_in_words():
    told = Measure.of("world/compositional/relation_wrong_image")
    assert (told.title, told.share) == (
        "Composition, relation told from its reverse, shown another image",
        True,
    )
    assert Measure.of("world/compositional/relation").label == "relation told from its reverse"
    theirs = Measure.of("swap_obj.json/compositional/swap_obj")
    assert (theirs.label, theirs.text(0.5)) == ("swap obj", "50.0\u202f%")
    assert Measure.of("world/order/order").label == "caption told from other orders of its words"
    assert Measure.of("world/counting/off_by_chance").share is False


def test_chance_of_a_kind_is_chance_of_all_that_is_said_of_it():
    found = {f"world/compositional/{name}": estimate(0.5, 0, 9) for name in ("relation", "relation_chance")}
    for name in ("relation", "relation_macro", "relation_wrong_image"):
        assert chance(Measure.of(f"world/compositional/{name}"), found, {}) == 0.5
    assert chance(Measure.of("world/compositional/unparsed"), found, {}) is None
    assert is_chance("world/compositional/relation_chance")


def test_chance_comes_from_the_evaluation_or_the_classes():
    found, classes = metrics(1.0), {("world", "zeroshot"): 120}

    def of(name):
        return chance(Measure.of(f"world/{name}"), found, classes)

    assert of("zeroshot/top1") == pytest.approx(1 / 120)
    assert of("zeroshot/top5") == pytest.approx(5 / 120)
    assert of("retrieval/text_to_image_r1") == 0.0005
    assert of("retrieval/text_to_image_r5") is None
    assert of("zeroshot/unparsed") is None
    assert chance(Measure.of("other/zeroshot/top1"), found, classes) is None


def test_any_direction_is_told_and_a_sum_that_comes_first_is_the_headline_alone():
    names = [
        "never_paired_r1",
        "paired_r1",
        "depth_to_audio_r10",
        "text_to_image_r1",
        "chance_r10",
        "chance_never_paired_r1",
    ]
    found = {f"world/emergent/{name}": estimate(0.5, 0, 9) for name in names}
    m = Measure.of("world/emergent/depth_to_audio_r10")
    assert (m.direction, m.label, m.share) == ("depth_to_audio", "depth to audio, recall at 10", True)
    assert chance(m, found, {}) == 0.5
    assert chance(Measure.of("world/emergent/never_paired_r1"), found, {}) == 0.5
    assert chance(Measure.of("world/emergent/text_to_image_r1"), found, {}) is None
    assert headlines(found) == ["world/emergent/never_paired_r1"]


def test_headlines_are_the_first_of_each_question():
    names = ["world/zeroshot/top1", "world/retrieval/image_to_text_r1", "world/retrieval/text_to_image_r1"]
    assert headlines(metrics(1.0)) == names
    assert headlines(metrics(1.0), most=2) == names[:2]
    assert is_chance("world/retrieval/image_to_text_chance_r1")
    assert not is_chance("world/retrieval/image_to_text_r1")


def test_the_same_network_from_fresh_weights_is_known_where_it_was_asked():
    found = {
        "world/finetune/top1": estimate(0.5, 0.02, 100),
        "world/finetune/untrained_top1": estimate(0.4, 0.02, 100),
    }
    assert untrained(Measure.of("world/finetune/top1"), found) == 0.4
    assert untrained(Measure.of("world/finetune/untrained_top1"), found) is None
    assert untrained(Measure.of("world/knn/top1"), found) is None


def test_headlines_of_several_sets_say_whose_they_are():
    one, two = "table/control/success", "unseen-table/control/success"
    said = "Control, closed loop, episodes that succeed"
    assert titles([one]) == {one: said}
    assert titles([one, two]) == {one: f"table: {said}", two: f"unseen-table: {said}"}
