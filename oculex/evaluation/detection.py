"""Object detection, by a detector's own classes or by grounding their names; COCO's average precision is what counts.

Of a system that grounds phrases the names of the classes are the text: as many as fit are asked at a time (GLIP, Li et
al. 2022, section 3.1). The 100 best boxes of a picture are kept.

Records: ``item`` and ``cluster`` are the image; ``output`` what was found, [class, score, x0, y0, x1, y1] each;
``truth`` the objects, [class, x0, y0, x1, y1, whether to find it counts]; ``score`` how many there are; ``status``
rated, unparsed where nothing was found.

Average precision is computed from the records, so that it has an interval: it equals the COCO tools'
(faster-coco-eval, the test), whose matching of found and true boxes is repeated here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oculex.contracts import Detects, GroundsPhrases, Sample, Source
from oculex.data.boxes import checked, joined, picture_size
from oculex.evaluation.grounding import overlaps
from oculex.evaluation.labels import OwnClasses
from oculex.evaluation.measures import Bound, Statistic, average, mean
from oculex.evaluation.reader import Whole
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context

NAME = "detection"
MOST = 100
OVERLAPS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())
POINTS = 101
"""Recalls at which precision is read, 0 to 1."""


class Prompts(Whole):
    """Every picture of a source beside each text of names."""

    classes: tuple[str, ...] = ()

    def __init__(self, source: Source, places: Sequence[int], texts: Sequence[Mapping[str, Any]]) -> None:
        self.source, self.places, self.texts, self.name = source, places, texts, source.name

    def fingerprint(self) -> str:
        return json.dumps(
            [self.source.fingerprint(), list(self.places), [text["text"] for text in self.texts]]
        )

    def __len__(self) -> int:
        return len(self.places) * len(self.texts)

    def __getitem__(self, number: int, /) -> Sample:
        image, part = divmod(number, len(self.texts))
        sample = self.source[self.places[image]]
        return {"id": f"{sample['id']}#{part}", "image": sample["image"], "grounded": [self.texts[part]]}


@dataclass(frozen=True)
class Known:
    """A picture's objects, as its truth tells them."""

    id: str
    size: tuple[int, int]
    objects: list[list[float]]


def run(system: Any, source: Source, context: Context) -> Table:
    known = {}
    for index, sample in context.embedder.readable(source):
        if "image" in sample and sample.get("box_labels") is not None:
            known[index] = _known(sample)
    if not known:
        return Table.empty()
    find = _of_its_own if isinstance(system, Detects) else _by_grounding
    rows = find(system, source, known, context)
    return Table.of(
        set=context.set,
        task=NAME,
        item=[each.id for each, _ in rows],
        cluster=[each.id for each, _ in rows],
        model=context.embedder.model,
        prompt="",
        control="",
        output=[json.dumps(boxes) for _, boxes in rows],
        parsed="",
        truth=[json.dumps(each.objects) for each, _ in rows],
        score=[float(len(each.objects)) for each, _ in rows],
        status=["rated" if boxes else "unparsed" for _, boxes in rows],
    )


Found = list[tuple[Known, list[list[float]]]]
"""Pictures and what was found in each, best first."""


def _of_its_own(system: Any, source: Source, known: Mapping[int, Known], context: Context) -> Found:
    found = context.embedder.detected(source, MOST)
    by_id = dict(zip(found.ids, found.values, strict=True))
    return [(each, _listed(each, by_id[each.id])) for each in known.values() if each.id in by_id]


def _listed(image: Known, objects: np.ndarray) -> list[list[float]]:
    return [
        [int(label), round(float(score), 5), *_pixels(box, image)]
        for label, score, *box in objects[np.isfinite(objects).all(1)].tolist()
    ]


def _pixels(shares: Sequence[float], image: Known) -> list[float]:
    return np.round(np.asarray(shares, float) * np.tile(image.size, 2), 2).tolist()


def _by_grounding(system: Any, source: Source, known: Mapping[int, Known], context: Context) -> Found:
    texts = prompts(source.classes, system.reads)
    asked = Prompts(source, list(known), [text for text, _ in texts])
    found = context.embedder.grounded(asked, MOST)
    by_id = dict(zip(found.ids, found.values, strict=True))
    return [
        (each, _detections(each, texts, by_id))
        for each in known.values()
        if all(f"{each.id}#{part}" in by_id for part in range(len(texts)))
    ]


def prompts(
    classes: Sequence[str], fits: Callable[[Mapping[str, Any]], bool]
) -> list[tuple[Mapping[str, Any], list[int]]]:
    """Texts of as many names as ``fits`` lets one have, and which classes they ask for; a name that fits in no text
    is asked alone."""
    out: list[tuple[Mapping[str, Any], list[int]]] = []
    start = 0
    while start < len(classes):
        low, high = 1, len(classes) - start
        while low < high:  # the longest that fits
            middle = (low + high + 1) // 2
            if fits(_text(classes[start : start + middle])):
                low = middle
            else:
                high = middle - 1
        out.append((_text(classes[start : start + low]), list(range(start, start + low))))
        start += low
    return out


def _text(names: Sequence[str]) -> Mapping[str, Any]:
    text, spans = joined(names)
    return {"kind": "classes", "text": text, "spans": spans, "boxes": [[] for _ in names]}


def _known(sample: Sample) -> Known:
    boxes = checked(sample.get("boxes", ()), sample["id"])
    ignored = np.asarray(sample.get("box_ignored", np.zeros(len(boxes))), bool)
    objects = [
        [int(label), *np.round(box.astype(float), 2).tolist(), int(not skip)]
        for label, box, skip in zip(sample["box_labels"], boxes, ignored, strict=True)
        if label >= 0
    ]
    return Known(str(sample["id"]), picture_size(sample), objects)


def _detections(
    image: Known, texts: Sequence[tuple[Mapping[str, Any], list[int]]], by_id: Mapping[str, np.ndarray]
) -> list[list[float]]:
    """The best boxes of all classes, by score."""
    found = []
    for part, (_, classes) in enumerate(texts):
        best = by_id[f"{image.id}#{part}"]
        for label, boxes in zip(classes, best, strict=False):
            for box in boxes[np.isfinite(boxes).all(1)]:
                found.append([label, round(float(box[4]), 5), *_pixels(box[:4], image)])
    return sorted(found, key=lambda each: -each[1])[:MOST]


# ----------------------------------------------------------------------------------------------- precision


def matched(
    found: np.ndarray, true: np.ndarray, counts: np.ndarray, thresholds: Sequence[float] = OVERLAPS
) -> np.ndarray:
    """int [thresholds, n]: what each of the found boxes of one class in one picture, best first, is: 1 right, 0
    wrong, -1 neither.

    Each takes the true box that it overlaps most and that nobody better has taken; those that do not ``count`` only
    where there is no other, and any number of times (COCO's evaluateImg).
    """
    out = np.zeros((len(thresholds), len(found)), int)
    if not len(true):
        return out
    order = np.argsort(~counts, kind="stable")
    true, counts = true[order], counts[order]
    shared = overlaps(found, true, of_first=~counts)
    for row, threshold in zip(out, thresholds, strict=True):
        taken = np.zeros(len(true), bool)
        for n, own in enumerate(shared):
            best, chosen = min(threshold, 1 - 1e-10), -1
            for m, overlap in enumerate(own):
                if taken[m] and counts[m]:
                    continue
                if chosen >= 0 and counts[chosen] and not counts[m]:
                    break
                if overlap >= best:
                    best, chosen = overlap, m
            if chosen >= 0:
                taken[chosen], row[n] = True, 1 if counts[chosen] else -1
    return out


@dataclass(frozen=True)
class AveragePrecision:
    """Mean over classes with an object of COCO's average precision at one overlap: precision, made to fall with
    recall, read at 101 recalls. nan where no object is left."""

    rows: np.ndarray
    """Of the table: pictures."""
    images: np.ndarray
    """Of each found box that is right or wrong, by class and then by score: its place in ``rows``."""
    right: np.ndarray
    starts: np.ndarray
    """Where each class begins, and the end."""
    objects: np.ndarray
    """int [classes, pictures]: how many there are."""
    proportion: bool = False

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        code = clusters[self.rows]
        counts = np.zeros((len(self.objects), m))
        for own, total in zip(self.objects, counts, strict=True):
            np.add.at(total, code, own)
        of = code[self.images]

        def value(weights: np.ndarray) -> np.ndarray:
            sums, there = np.zeros(len(weights)), np.zeros(len(weights))
            for n, count in enumerate(counts):
                part = slice(self.starts[n], self.starts[n + 1])
                objects = weights @ count
                there += objects > 0
                sums += _precision(weights[:, of[part]], self.right[part], objects)
            return np.divide(sums, there, out=np.full(len(weights), np.nan), where=there > 0)

        return value


def _precision(weights: np.ndarray, right: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Average precision [draws] of found boxes, best first, each as often as ``weights`` [draws, n] says."""
    hits = np.cumsum(weights * right, axis=1)[:, right]
    shown = np.cumsum(weights, axis=1)[:, right]
    precision = np.divide(hits, shown, out=np.zeros_like(hits), where=shown > 0)
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(hits, objects[:, None], out=np.zeros_like(hits), where=objects[:, None] > 0)
    reached = np.floor(recall * (POINTS - 1) + 1e-9) + (hits > 0)
    return (falling * np.diff(reached, axis=1, prepend=0)).sum(1) / POINTS


def statistics(table: Table) -> dict[str, Statistic]:
    """AP over overlaps of 0.5 to 0.95, and at 0.5 and 0.75; ``found`` is the share of pictures in which anything
    was."""
    found = [np.array(json.loads(text), float).reshape(-1, 6) for text in table["output"]]
    true = [np.array(json.loads(text), float).reshape(-1, 6) for text in table["truth"]]
    classes = sorted({int(label) for each in true for label in each[each[:, 5] > 0, 0]})
    parts: dict[int, list[tuple[np.ndarray, np.ndarray, int]]] = defaultdict(list)
    for image, (boxes, objects) in enumerate(zip(found, true, strict=True)):
        for label in classes:
            own, theirs = boxes[boxes[:, 0] == label], objects[objects[:, 0] == label]
            own = own[np.argsort(-own[:, 1], kind="stable")]
            parts[label].append((own[:, 1], matched(own[:, 2:], theirs[:, 1:5], theirs[:, 5] > 0), image))
    objects_of = np.array(
        [[int(((each[:, 0] == label) & (each[:, 5] > 0)).sum()) for each in true] for label in classes]
    ).reshape(len(classes), len(table))
    at = {
        overlap: _average_precision(parts, classes, objects_of, place)
        for place, overlap in enumerate(OVERLAPS)
    }
    out: dict[str, Statistic] = {}
    if classes:
        out |= {"ap": average(list(at.values())), "ap50": at[0.5], "ap75": at[0.75]}
    out["unparsed"] = mean(table["status"] == "unparsed")
    return out


def _average_precision(
    parts: Mapping[int, Sequence[tuple[np.ndarray, np.ndarray, int]]],
    classes: Sequence[int],
    objects: np.ndarray,
    place: int,
) -> AveragePrecision:
    images, right, starts = [], [], [0]
    for label in classes:
        scores = np.concatenate([own for own, _, _ in parts[label]])
        kinds = np.concatenate([kind[place] for _, kind, _ in parts[label]])
        where = np.concatenate([np.full(len(own), image) for own, _, image in parts[label]])
        order = np.argsort(-scores, kind="stable")
        order = order[kinds[order] >= 0]
        images.append(where[order].astype(int))
        right.append(kinds[order] == 1)
        starts.append(starts[-1] + len(order))
    return AveragePrecision(
        np.arange(objects.shape[1]),
        np.concatenate([*images, np.zeros(0, int)]),
        np.concatenate([*right, np.zeros(0, bool)]),
        np.array(starts),
        objects,
    )


TASK = OwnClasses(
    name=NAME,
    needs=(("image",), ("boxes",), ("box_labels",)),
    capabilities=((Detects,), (GroundsPhrases,)),
    run=run,
    statistics=statistics,
    classifies=True,
)
