"""Answers and descriptions: scores as COCO's evaluation gives them, and records that keep apart what differs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oculex.contracts import Answers, System
from oculex.evaluation import captioning, questions
from oculex.evaluation.caption_scores import (
    Bleu,
    bleu_counts,
    breaks_off,
    cider_d,
    repeats,
    rouge_l,
    words,
)
from oculex.evaluation.protocol import evaluate
from oculex.evaluation.task import EvalSet

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "captions.npz")


def test_scores_are_those_of_cocos_evaluation():
    said = [text.split() for text in GOLDEN["texts"]]
    references = [[r.split() for r in each.split("\n")] for each in GOLDEN["references"]]
    np.testing.assert_allclose(cider_d(said, references), GOLDEN["cider"], rtol=1e-9, atol=1e-12)
    ours = [rouge_l(*pair) for pair in zip(said, references, strict=True)]
    np.testing.assert_allclose(ours, GOLDEN["rouge_l"], rtol=1e-12)
    counts = np.array([bleu_counts(*pair) for pair in zip(said, references, strict=True)], float)
    rows = np.arange(len(said))
    for n in range(1, 5):  # COCO's adds 1e-9 to counts
        value = Bleu(rows, counts, n).bind(rows, len(rows))(np.ones((1, len(rows))))
        np.testing.assert_allclose(value, GOLDEN["bleu"][n - 1], rtol=1e-6)


def test_scores_of_texts_that_say_nothing_are_0():
    references = [[["a", "ball"]], [["a", "cube"]]]
    assert cider_d([[], ["x"]], references).tolist() == [0, 0]
    assert rouge_l([], references[0]) == rouge_l(["x"], references[0]) == 0
    counts = np.array([bleu_counts([], each) for each in references], float)
    assert Bleu(np.arange(2), counts, 4).bind(np.arange(2), 2)(np.ones((1, 2))).tolist() == [0]
    assert words("It's RED, a_b!") == ["it's", "red", "a", "b"]


@pytest.mark.parametrize(
    ("text", "broken", "again"),
    [
        ("There is a ball. It is red.", False, False),
        ('They said "yes."', False, False),
        ("Is it red?", False, False),
        ("", True, False),
        ("a red ball", True, False),
        ("The main object is a red", True, False),
        ("a small red ba...", True, False),
        ("It is red. it is Red.", False, True),
        ("a red, red ball.", False, False),
        ("a red red red ball.", False, True),
        ("on the table on the table on the table.", False, True),
        ("red ball red ball red cube red ball.", False, False),
        ("the the the", True, True),
    ],
)
def test_texts_that_break_off_or_repeat_themselves(text, broken, again):
    assert (breaks_off(text), repeats(text)) == (broken, again)


def test_answers_are_compared_as_vqa_compares_them():
    assert questions.normal("The Two.") == "2"
    assert questions.parse("A red one!", "red") == "red 1"
    assert questions.parse("Yes, it is", "yes") == "yes"
    assert questions.parse("I think yes", "yes") == ""
    assert questions.parse("yesterday", "no") == ""
    assert questions.parse("...", "red") == ""


class Scenes:
    """Image n is filled with n; its colour is the answer to one question, what is there to another."""

    classes: tuple[str, ...] = ()
    COLOURS = ("red", "blue", "green", "grey")

    def __init__(self, count=8):
        self.name, self.count = "scenes", count

    def fingerprint(self):
        return f"scenes-{self.count}"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        colour = self.COLOURS[index % 4]
        yes = "yes" if index % 2 == 0 else "no"
        return {
            "id": f"s{index}",
            "image": np.full((3, 4, 4), index, np.uint8),
            "captions": [f"a {colour} ball.", f"one {colour} ball on a table."],
            "questions": [
                {"question": "Which colour?", "answer": colour, "kind": "colour"},
                {"question": "Is there a ball?", "answer": yes, "kind": "exist"},
            ],
        }


class Seer(nn.Module, System):
    """Looks at the pixels and says what is so; without an image it says red, and yes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def view(self, sample, rng):
        asked = sample.get("question", "describe")
        image = {"pixel": int(sample["image"].flat[0])} if "image" in sample else {}
        return image | {"question": asked}

    def answer(self, batch, most):
        pixels = batch.get("pixel", torch.zeros(len(batch["question"]))).tolist()
        return [self.say(asked, int(p)) for asked, p in zip(batch["question"], pixels, strict=True)]

    def say(self, asked, pixel):
        if asked == "describe":
            return "" if pixel == 3 else f"A {Scenes.COLOURS[pixel % 4]} ball."
        if asked == "Which colour?":
            return f" {Scenes.COLOURS[pixel % 4].title()}."
        return "Perhaps" if pixel == 5 else "yes" if pixel % 2 == 0 else "No, there is none"


def found(tmp_path, tasks=("vqa", "pope", "captioning")):
    return evaluate(Seer(), {"s": EvalSet("s", Scenes())}, tasks=tasks, cache=tmp_path)


def test_right_wrong_and_unparsed_are_kept_apart(tmp_path):
    result = found(tmp_path)
    value = {name: estimate.value for name, estimate in result.metrics.items()}
    assert isinstance(Seer(), Answers)
    assert value["s/vqa/accuracy"] == value["s/vqa/colour_accuracy"] == 1
    assert value["s/vqa/no_image_accuracy"] == 0.25  # red
    assert value["s/vqa/wrong_image_accuracy"] < 1
    assert value["s/vqa/gain_over_no_image"] == pytest.approx(0.75)
    assert value["s/pope/accuracy"] == 7 / 8
    assert value["s/pope/unparsed"] == 1 / 8
    assert value["s/pope/no_image_accuracy"] == value["s/pope/yes"] == 0.5
    assert value["s/pope/f1"] == value["s/pope/precision"] == value["s/pope/recall"] == 1
    table = result.table.select(task="pope", control="")
    assert sorted(table["status"]) == ["right"] * 7 + ["unparsed"]
    assert set(result.table.select(task="vqa", control="no_image")["output"]) == {" Red."}
    assert len(result.table.select(task="vqa")) == 3 * 8
    again = found(tmp_path)
    assert again.metrics == result.metrics


def test_descriptions_beat_those_of_other_images(tmp_path):
    result = found(tmp_path, ("captioning",))
    value = {name: estimate.value for name, estimate in result.metrics.items()}
    assert value["s/captioning/unparsed"] == 1 / 8
    assert value["s/captioning/rouge_l"] == pytest.approx(7 / 8)
    assert value["s/captioning/cider"] > 2 * value["s/captioning/wrong_image_cider"]
    assert result.metrics["s/captioning/bleu4"].low <= value["s/captioning/bleu4"]
    gain = result.metrics["s/captioning/gain_over_wrong_image"]
    assert gain.value == pytest.approx(value["s/captioning/cider"] - value["s/captioning/wrong_image_cider"])
    assert gain.low > 0
    assert value["s/captioning/whole"] == 7 / 8  # of which one says nothing, which breaks off
    assert (value["s/captioning/broken_off"], value["s/captioning/repetitive"]) == (1 / 8, 0)
    assert "s/captioning/named" not in value  # nobody says what the classes are called
    swapped = result.table.select(control="wrong_image")
    assert set(swapped["output"]) == set(result.table.select(control="")["output"])
    assert captioning.statistics(result.table).keys() >= {"cider", "bleu1", "bleu4", "rouge_l"}


class Unpunctuated(Scenes):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"captions": [caption.rstrip(".") for caption in sample["captions"]]}


def test_nothing_breaks_off_where_peoples_captions_have_no_end():
    metrics = evaluate(Seer(), {"s": EvalSet("s", Unpunctuated())}, tasks=("captioning",)).metrics
    names = {name.rpartition("/")[2] for name in metrics}
    assert names & {"whole", "broken_off", "repetitive"} == {"repetitive"}


class Named(Scenes):
    classes = ("green ball", "red ball")

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": index % 2}


def test_a_description_names_the_class_where_it_holds_all_its_words():
    """Of images 0 to 7 the third and the seventh, which are green; the others are called another colour."""
    metrics = evaluate(Seer(), {"s": EvalSet("s", Named())}, tasks=("captioning",)).metrics
    assert metrics["s/captioning/named"].value == 2 / 8
    assert metrics["s/captioning/named"].n == metrics["s/captioning/whole_and_named"].n == 8
    assert metrics["s/captioning/whole"].value == 7 / 8
    assert metrics["s/captioning/whole_and_named"].value == 2 / 8

    class Breaking(Seer):
        def say(self, asked, pixel):
            return super().say(asked, pixel).rstrip(".") if pixel == 2 else super().say(asked, pixel)

    metrics = evaluate(Breaking(), {"s": EvalSet("s", Named())}, tasks=("captioning",)).metrics
    assert metrics["s/captioning/named"].value == 2 / 8
    assert metrics["s/captioning/whole_and_named"].value == 1 / 8
    assert "s/captioning/wrong_image_named" in metrics
