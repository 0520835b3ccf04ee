"""Boxes that are found: recall of phrases, and COCO's average precision with an interval."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from oculex.data.boxes import class_prompt, fitted, joined, phrases_of_tokens
from oculex.evaluation import EvalSet, detection, evaluate, grounding
from oculex.evaluation.records import Table
from oculex.evaluation.statistics import intervals
from tests.evaluation.test_fakes import Listed

SIZE = (40, 20)


class Finder(nn.Module):
    """Knows where each phrase is in each picture, which it tells by the picture's colour; scores fall with the order."""

    def __init__(self, places, names=3):
        super().__init__()
        self.places, self.names = places, names
        self.weight = nn.Parameter(torch.zeros(1))

    def view(self, sample, rng):
        text = sample["grounded"][0]
        words = [text["text"][s:e] for spans in text["spans"] for s, e in spans[:1]]
        return {"image": np.full((1,), sample["image"][0, 0, 0]), "words": words or [""]}

    def ground(self, batch, most):
        out = torch.full((len(batch["image"]), self.names, most, 5), torch.nan)
        for own, image, words in zip(out, batch["image"], batch["words"], strict=True):
            for row, word in zip(own, words, strict=False):
                for n, box in enumerate(self.places.get((int(image), word), ())[:most]):
                    row[n] = torch.tensor([box[0] / SIZE[0], box[1] / SIZE[1], box[2] / SIZE[0], box[3] / SIZE[1],
                                           1 - n / 100])  # fmt: skip
        return out

    def reads(self, text):
        return len(text["spans"]) <= self.names


def picture(n, texts, boxes, **more):
    image = np.full((SIZE[1], SIZE[0], 3), n, np.uint8)
    return {"id": str(n), "image": image, "boxes": np.array(boxes, np.float32), "grounded": texts, **more}


def text(kind, *phrases):
    """``phrases``: (words, boxes that they mean)."""
    line, spans = joined([words for words, _ in phrases])
    return {"kind": kind, "text": line, "spans": spans, "boxes": [list(meant) for _, meant in phrases]}


def test_recall_counts_phrases_any_of_whose_boxes_is_found():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]]
    samples = [
        picture(
            0, [text("phrases", ("cube", [0, 1]), ("ghost", [2])), text("expression", ("ball", [1]))], boxes
        ),
        picture(1, [text("phrases", ("cube", [0]))], boxes),
    ]
    off = [[5, 5, 15, 15]]
    places = {(0, "cube"): [[21, 0, 31, 10]], (0, "ball"): [*off, *off, [20, 0, 30, 9]], (1, "cube"): []}
    found = evaluate(Finder(places), {"s": EvalSet("s", Listed(samples))}, tasks=["grounding"])
    value = {name.removeprefix("s/grounding/"): each.value for name, each in found.metrics.items()}
    assert value == {
        "phrases_r1": 0.5, "phrases_r5": 0.5, "phrases_r10": 0.5, "phrases_wrong_image_r1": 0.0,
        "expression_r1": 0.0, "expression_r5": 1.0, "expression_r10": 1.0, "expression_wrong_image_r1": 0.0,
        "unparsed": pytest.approx(1 / 3),
    }  # fmt: skip
    rows = found.table.select(control="", prompt="expression")
    assert rows["score"].tolist() == [3.0]
    assert json.loads(rows["output"][0])["boxes"][2] == [20.0, 0.0, 30.0, 9.0]
    assert found.metrics["s/grounding/phrases_r1"].n == 2, "a phrase that means nothing visible is not asked"


def test_another_picture_is_shown_for_the_blind_control():
    samples = [picture(n, [text("phrases", ("cube", [0]))], [[0, 0, 10, 10]]) for n in range(2)]
    everywhere = {(n, "cube"): [[0, 0, 10, 10]] for n in range(2)}
    found = evaluate(Finder(everywhere), {"s": EvalSet("s", Listed(samples))}, tasks=["grounding"])
    assert found.metrics["s/grounding/phrases_wrong_image_r1"].value == 1.0
    here = {(0, "cube"): [[0, 0, 10, 10]], (1, "cube"): [[30, 0, 40, 10]]}
    samples[1] = picture(1, [text("phrases", ("cube", [0]))], [[30, 0, 40, 10]])
    found = evaluate(Finder(here), {"s": EvalSet("s", Listed(samples))}, tasks=["grounding"])
    assert found.metrics["s/grounding/phrases_r1"].value == 1.0
    assert found.metrics["s/grounding/phrases_wrong_image_r1"].value == 0.0


def scenes(seed, images=12, classes=3, crowds=0.0):
    """Random true boxes, and found ones near them or anywhere."""
    rng = np.random.default_rng(seed)
    found, true = [], []
    for _ in range(images):
        corner = rng.uniform(0, 60, (int(rng.integers(0, 6)), 2))
        objects = np.concatenate([corner, corner + rng.uniform(8, 40, corner.shape)], 1)
        labels = rng.integers(0, classes, len(objects))
        counts = rng.random(len(objects)) >= crowds
        near = np.repeat(objects, 2, 0) + rng.normal(0, 4, (2 * len(objects), 4))
        corner = rng.uniform(0, 60, (4, 2))
        boxes = np.concatenate([near, np.concatenate([corner, corner + rng.uniform(8, 40, corner.shape)], 1)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        kinds = np.concatenate([np.repeat(labels, 2), rng.integers(0, classes, 4)])
        scores = rng.permutation(1000)[: len(boxes)] / 1000
        found.append(
            [[int(k), s, *b] for k, s, b in zip(kinds, scores.tolist(), boxes.tolist(), strict=True)]
        )
        true.append([[int(k), *b, int(c)] for k, b, c in zip(labels, objects.tolist(), counts, strict=True)])
    return found, true


def table(found, true):
    ids = [str(n) for n in range(len(found))]
    return Table.of(set="s", task="detection", item=ids, cluster=ids, model="m", prompt="", control="",
                    output=[json.dumps(each) for each in found], parsed="", truth=[json.dumps(each) for each in true],
                    score=[float(len(each)) for each in true],
                    status=["rated" if each else "unparsed" for each in found])  # fmt: skip


@pytest.mark.parametrize("crowds", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_is_the_coco_tools(seed, crowds):
    pytest.importorskip("faster_coco_eval", reason="parity needs faster-coco-eval")
    from torchmetrics.detection import MeanAveragePrecision

    found, true = scenes(seed, crowds=crowds)
    points = [
        max(0.0, n / 100 - 1e-9) for n in range(101)
    ]  # torchmetrics' own are float32, and miss exact recalls
    judge = MeanAveragePrecision(
        backend="faster_coco_eval", rec_thresholds=points, iou_thresholds=list(detection.OVERLAPS)
    )
    for boxes, objects in zip(found, true, strict=True):
        b, o = np.array(boxes, float).reshape(-1, 6), np.array(objects, float).reshape(-1, 6)
        judge.update(
            [{"boxes": torch.tensor(b[:, 2:]), "scores": torch.tensor(b[:, 1]), "labels": torch.tensor(b[:, 0]).long()}],
            [{"boxes": torch.tensor(o[:, 1:5]), "labels": torch.tensor(o[:, 0]).long(),
              "iscrowd": torch.tensor(1 - o[:, 5]).long()}],
        )  # fmt: skip
    theirs = judge.compute()
    ours = intervals(detection.statistics(table(found, true)), np.arange(len(found)).astype(str), draws=50)
    for name, their in (("ap", "map"), ("ap50", "map_50"), ("ap75", "map_75")):
        assert ours[name].value == pytest.approx(float(theirs[their]), abs=1e-6), name
        assert ours[name].low <= ours[name].value <= ours[name].high
        assert ours[name].low < ours[name].high


def test_a_picture_that_is_drawn_twice_counts_as_two_pictures():
    found, true = scenes(3)
    twice = table([*found, found[0]], [*true, true[0]])
    whole = detection.statistics(twice)["ap"].bind(np.array([*range(12), 12]), 13)(np.ones((1, 13)))
    weights = np.ones((1, 12))
    weights[0, 0] = 2
    assert detection.statistics(table(found, true))["ap"].bind(np.arange(12), 12)(weights) == pytest.approx(
        whole
    )


def test_found_objects_are_the_best_of_all_prompts():
    """Three names fit in one text; five classes take two."""
    classes = ("a", "b", "c", "d", "e")
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10]]
    samples = [picture(n, [], boxes, box_labels=np.array([0, 4])) for n in range(3)]
    places = {(n, name): [boxes[0]] if name == "a" else [boxes[1]] for n in range(3) for name in ("a", "e")}
    source = Listed(samples)
    source.classes = classes
    found = evaluate(Finder(places), {"s": EvalSet("s", source)}, tasks=["detection"])
    assert found.metrics["s/detection/ap"].value == pytest.approx(1.0)
    assert found.metrics["s/detection/ap"].n == 3
    assert json.loads(found.table["output"][0]) == [[0, 1.0, *boxes[0]], [4, 1.0, *boxes[1]]]
    assert [asked for _, asked in detection.prompts(classes, Finder({}).reads)] == [[0, 1, 2], [3, 4]]


def test_overlaps_of_crowds_are_shares_of_the_found_box():
    a, b = np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 4, 4.0], [1, 0, 3, 2]])
    assert grounding.overlaps(a, b).tolist() == [[0.25, pytest.approx(1 / 3)]]
    assert grounding.overlaps(a, b, of_first=np.array([True, False])).tolist() == [
        [1.0, pytest.approx(1 / 3)]
    ]


# ------------------------------------------------------------------------------------------------ views


def test_a_picture_keeps_its_shape_and_is_mirrored_inside_of_it():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :10] = 255
    view, extent = fitted({"id": "i", "image": image}, 32, (0.0, 0.5, 0.0))
    assert extent.tolist() == [32, 16]
    assert view[0, 8, 2] == 255
    assert view[0, 8, 30] == 0
    assert view[:, 24, 2].tolist() == [0, 128, 0]
    mirrored, _ = fitted({"id": "i", "image": image}, 32, (0.0, 0.5, 0.0), mirrored=True)
    assert (mirrored[:, :16] == view[:, :16, ::-1]).all()
    assert (mirrored[:, 16:] == view[:, 16:]).all()


def test_names_of_classes_become_a_text_with_others_among_them():
    names, rng = [f"class {n}" for n in range(20)], np.random.default_rng(0)
    lengths = set()
    for _ in range(50):
        made = class_prompt(names, [3, 7, 3, -1], rng, 6, lambda text: len(text) < 80)
        said = ["".join(made["text"][s:e] for s, e in spans) for spans in made["spans"]]
        assert len(set(said)) == len(said)
        assert made["boxes"][said.index("class 3")] == [0, 2]
        assert made["boxes"][said.index("class 7")] == [1]
        assert all(
            not meant
            for name, meant in zip(said, made["boxes"], strict=True)
            if name not in ("class 3", "class 7")
        )
        lengths.add(len(said))
        assert len(made["text"]) < 80 or len(said) == 2
    assert {2, 3} <= lengths
    assert max(lengths) > 5


def test_tokens_are_about_the_phrase_that_they_overlap():
    offsets = [(0, 0), (0, 1), (1, 5), (5, 10), (0, 0)]  # "a red cube"
    assert phrases_of_tokens(offsets, [[[2, 10]], [[0, 1]], [[0, 1], [6, 10]]], 6).astype(int).tolist() == [
        [0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0],
    ]  # fmt: skip
