"""Semantic segmentation: the class of each pixel, by mean intersection over union.

Truth and answer are compared in a square into which the picture is fitted by its longer side, at most ``SIDE``
positions wide; what lies outside of the picture does not count. Class 0 is what belongs to none, and counts as a class.

Records: ``item`` and ``cluster`` are the image; ``output`` {class: [pixels that are both, that are answered]}, and
``truth`` {class: pixels}, by number, of the classes that are there; ``score`` the share of right pixels; ``status``
rated. The union over the whole set is what intersections are divided by, as is usual, so a class is as much worth as
any other, whatever its size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import Batch, Sample, Segments, Source
from oculex.data.masks import OUTSIDE, fitted_mask
from oculex.evaluation.labels import OwnClasses
from oculex.evaluation.measures import Bound, Statistic, mean
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context

NAME = "segmentation"
SIDE = 224


def run(system: Any, source: Source, context: Context) -> Table:
    side, kinds = _side(source, context), 1 + len(source.classes)

    def truth(sample: Sample) -> dict[str, Any]:
        return {"mask": fitted_mask(sample, side)}

    def count(seen: Batch, true: Batch) -> Tensor:
        return counts(system.segment(seen, side), true["mask"], kinds).flatten(1)

    found = context.embedder.counted(source, f"{NAME}:{side}", count, truth)
    if not found.items:
        return Table.empty()
    values = found.values.reshape(len(found.items), kinds, 3).astype(int)
    return Table.of(
        set=context.set,
        task=NAME,
        item=found.ids,
        cluster=found.ids,
        model=context.embedder.model,
        prompt="",
        control="",
        output=[json.dumps(_there(each[:, :2])) for each in values],
        parsed="",
        truth=[json.dumps(_there(each[:, 2:])) for each in values],
        score=values[:, :, 0].sum(1) / np.maximum(1, values[:, :, 2].sum(1)),
        status="rated",
    )


def _side(source: Source, context: Context) -> int:
    """The longer side of the first mask, up to ``SIDE``: nothing is gained by more positions than there are pixels."""
    masks = (
        np.shape(sample["semantic"]) for sample in context.embedder.samples(source) if "semantic" in sample
    )
    return min(SIDE, max(next(masks, (SIDE,))))


def counts(answer: Tensor, truth: Tensor, kinds: int) -> Tensor:
    """[B, kinds, 3] of masks [B, S, S]: pixels of each class that are right, that are answered, and that are true."""
    known = truth != OUTSIDE
    own, true = (each.long().clamp(max=kinds - 1)[:, None].flatten(2) for each in (answer, truth))
    every = torch.arange(kinds, device=truth.device)[:, None]
    seen = known.flatten(1)[:, None]
    answered, there = (own == every) & seen, (true == every) & seen
    return torch.stack([(answered & there).sum(2), answered.sum(2), there.sum(2)], dim=2).float()


def _there(counted: np.ndarray) -> dict[int, Any]:
    """Rows of counts that are not all 0, by number; one count stands for itself."""
    rows = {int(n): each.tolist() for n, each in enumerate(counted) if each.any()}
    return {n: each[0] if len(each) == 1 else each for n, each in rows.items()}


@dataclass(frozen=True)
class MeanIoU:
    """Mean over classes of summed intersections over summed unions; a class that is nowhere does not count."""

    rows: np.ndarray
    both: np.ndarray
    """[rows, classes] pixels."""
    either: np.ndarray
    proportion: bool = False

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        code = clusters[self.rows]
        both, either = (np.zeros((m, each.shape[1])) for each in (self.both, self.either))
        np.add.at(both, code, self.both)
        np.add.at(either, code, self.either)

        def value(weights: np.ndarray) -> np.ndarray:
            shared, union = weights @ both, weights @ either
            ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
            classes = (union > 0).sum(1)
            return np.divide(ratio.sum(1), classes, out=np.full(len(classes), np.nan), where=classes > 0)

        return value


def statistics(table: Table) -> dict[str, Statistic]:
    """miou over all classes that are there or answered; miou_objects without class 0; pixels that are right; and what
    an answer gets that takes every pixel for no object, without a look (blind)."""
    outputs = [json.loads(text) for text in table["output"]]
    truths = [json.loads(text) for text in table["truth"]]
    kinds = 1 + max((int(name) for each in (*outputs, *truths) for name in each), default=0)
    both, answered = (_columns(outputs, kinds, place) for place in (0, 1))
    true = _columns([{name: [value] for name, value in each.items()} for each in truths], kinds, 0)
    rows = np.arange(len(table))
    blind = np.zeros_like(true)
    blind[:, 0] = true.sum(1)
    nothing = np.minimum(blind, true)
    return {
        "miou": MeanIoU(rows, both, answered + true - both),
        "miou_objects": MeanIoU(rows, both[:, 1:], (answered + true - both)[:, 1:]),
        "pixels_right": mean(table["score"]),
        "blind_miou": MeanIoU(rows, nothing, blind + true - nothing),
    }


def _columns(counted: Sequence[Mapping[str, Sequence[float]]], kinds: int, place: int) -> np.ndarray:
    out = np.zeros((len(counted), kinds))
    for row, each in zip(out, counted, strict=True):
        for name, values in each.items():
            row[int(name)] = values[place]
    return out


TASK = OwnClasses(
    name=NAME,
    needs=(("image",), ("semantic",)),
    capabilities=((Segments,),),
    run=run,
    statistics=statistics,
    classifies=True,
)
