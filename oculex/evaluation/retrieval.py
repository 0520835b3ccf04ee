"""Image-text retrieval, both ways, with several captions per image (the COCO and Flickr protocol).

Image to text: an image is right at k if any of its captions is among the k best of all captions. Text to
image: each caption asks for its image.

Equal captions are one text: whatever image they were written for, they are right for every image that has
such a caption, and such an image is right for them. A text that is wrong counts as often in the gallery as it
was written. The rank of the best right candidate is 1 plus the number of wrong ones that score at least as
much: ties count against the model, so a model that scores everything alike ranks last.

Records: ``prompt`` is the direction; ``item`` the image id or the caption's (image id#n); ``output`` {"top":
the ten best different candidates}; ``truth`` {"right": how many candidates are right, "of": size of the
gallery, "ids": the first ten of them}; ``score`` the rank; ``status`` right at rank 1, unparsed where no
candidate has a score that is a number. ``control`` wrong_image: the same question with each image replaced by
another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import EncodesImages, EncodesText, ScoresTexts, Source
from oculex.evaluation.cache import Item
from oculex.evaluation.measures import Statistic, average, mean, median
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image

NAME = "retrieval"
TO_TEXT, TO_IMAGE = "image_to_text", "text_to_image"
RECALLS = (1, 5, 10)
TOP = 10
CELLS = 1 << 25
"""Scores held at a time."""

Scores = Callable[[slice], Tensor]
"""Queries -> scores [queries, candidates]."""


@dataclass(frozen=True)
class Direction:
    """Questions of one kind: ``query`` [items] is the row of each item among the different queries."""

    name: str
    items: list[str]
    clusters: list[str]
    query: np.ndarray
    right: list[np.ndarray]
    """Right candidates of each query."""
    candidates: list[str]
    counts: np.ndarray
    """How often each candidate stands in the gallery."""


@dataclass(frozen=True)
class Gallery:
    """Images and the different texts among their captions."""

    images: list[str]
    texts: list[str]
    names: list[str]
    """First caption id of each text."""
    captions: list[tuple[str, int, int]]
    """(caption id, image, text)."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> Gallery:
        index: dict[str, int] = {}
        names: list[str] = []
        captions = []
        for image, item in enumerate(items):
            for n, text in enumerate(item.captions):
                if text not in index:
                    index[text] = len(index)
                    names.append(f"{item.id}#{n}")
                captions.append((f"{item.id}#{n}", image, index[text]))
        return cls([item.id for item in items], list(index), names, captions)

    def directions(self) -> tuple[Direction, Direction]:
        """Image to text, text to image."""
        pairs = np.unique([(image, text) for _, image, text in self.captions], axis=0)
        swapped = pairs[np.argsort(pairs[:, 1], kind="stable")]
        images, text_of = np.arange(len(self.images)), np.array([text for _, _, text in self.captions])
        to_text = Direction(
            name=TO_TEXT,
            items=self.images,
            clusters=self.images,
            query=images,
            right=_grouped(pairs[:, 0], pairs[:, 1], len(self.images)),
            candidates=self.names,
            counts=np.bincount(text_of, minlength=len(self.texts)),
        )
        to_image = Direction(
            name=TO_IMAGE,
            items=[name for name, _, _ in self.captions],
            clusters=[self.images[image] for _, image, _ in self.captions],
            query=text_of,
            right=_grouped(swapped[:, 1], swapped[:, 0], len(self.texts)),
            candidates=self.images,
            counts=np.ones_like(images),
        )
        return to_text, to_image


def _grouped(by: np.ndarray, values: np.ndarray, n: int) -> list[np.ndarray]:
    """``values`` whose ``by`` (sorted) is 0, 1, ... n - 1."""
    return np.split(values, np.cumsum(np.bincount(by, minlength=n))[:-1])


def ranks(
    scores: Scores, right: Sequence[np.ndarray], counts: np.ndarray, device: torch.device
) -> tuple[np.ndarray, ...]:
    """(rank [n], best candidates [n, <=10], unscored [n]) of n queries.

    ``right`` lists each query's right candidates, ``counts`` [candidates] how often each stands in the
    gallery.
    """
    step = max(1, CELLS // len(counts))
    count = torch.from_numpy(counts).to(device)
    out: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(right), step):
        own = right[start : start + step]
        found = scores(slice(start, start + len(own))).to(device).float()
        unknown = found.isnan()
        found = found.masked_fill(unknown, -torch.inf)
        mask = torch.zeros_like(unknown)
        rows = np.repeat(np.arange(len(own)), [len(each) for each in own])
        mask[torch.from_numpy(rows), torch.from_numpy(np.concatenate(own))] = True
        best = found.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
        ahead = (found >= best) & ~mask
        top = found.topk(min(TOP, found.shape[1]), dim=1).indices
        out.append((1 + (ahead * count).sum(1), top, unknown.all(1)))
    return tuple(torch.cat(part).cpu().numpy() for part in zip(*out, strict=True))


def run(system: Any, source: Source, context: Context) -> Table:
    dual = isinstance(system, EncodesImages) and isinstance(system, EncodesText)
    gallery, pairs = (_embedded if dual else _paired)(source, context)
    if not gallery.images:
        return Table.empty()
    shown = {"": np.arange(len(gallery.images))}
    if len(gallery.images) > 1:
        shown["wrong_image"] = wrong_image(gallery.images)
    return concat(
        [
            _records(direction, scores, context, control)
            for control, which in shown.items()
            for direction, scores in zip(gallery.directions(), pairs(which), strict=True)
        ]
    )


Pairs = Callable[[np.ndarray], tuple[Scores, Scores]]
"""Which image stands for each image -> scores of texts for images, and of images for texts."""


def _embedded(source: Source, context: Context) -> tuple[Gallery, Pairs]:
    embedder = context.embedder
    found = embedder.images(source)
    rows = [row for row, item in enumerate(found.items) if item.captions]
    gallery = Gallery.of([found.items[row] for row in rows])
    images = torch.from_numpy(found.values[rows]).to(embedder.device)
    texts = torch.from_numpy(embedder.texts(gallery.texts)).to(embedder.device)

    def pairs(which: np.ndarray) -> tuple[Scores, Scores]:
        shown = images[torch.from_numpy(which)]
        return lambda rows: shown[rows] @ texts.T, lambda rows: texts[rows] @ shown.T

    return gallery, pairs


def _paired(source: Source, context: Context) -> tuple[Gallery, Pairs]:
    asked = list(dict.fromkeys(text for item in context.embedder.items(source) for text in item.captions))
    found = context.embedder.scores(source, asked)
    rows = [row for row, item in enumerate(found.items) if item.captions]
    gallery = Gallery.of([found.items[row] for row in rows])
    column = {text: n for n, text in enumerate(asked)}
    scores = torch.from_numpy(found.values[np.ix_(rows, [column[text] for text in gallery.texts])])

    def pairs(which: np.ndarray) -> tuple[Scores, Scores]:
        shown = scores[torch.from_numpy(which)]
        return lambda rows: shown[rows], lambda rows: shown.T[rows]

    return gallery, pairs


def _records(direction: Direction, scores: Scores, context: Context, control: str) -> Table:
    rank, top, silent = ranks(scores, direction.right, direction.counts, context.embedder.device)
    names, query = direction.candidates, direction.query
    outputs = [json.dumps({"top": [names[n] for n in row]}) for row in top.tolist()]
    firsts = ["" if no else names[row[0]] for no, row in zip(silent, top, strict=True)]
    status = np.where(silent, "unparsed", np.where(rank == 1, "right", "wrong"))
    size = int(direction.counts.sum())
    truths = [
        json.dumps(
            {"right": int(direction.counts[own].sum()), "of": size, "ids": [names[n] for n in own[:TOP]]}
        )
        for own in direction.right
    ]
    return Table.of(
        set=context.set,
        task=NAME,
        item=direction.items,
        cluster=direction.clusters,
        model=context.embedder.model,
        prompt=direction.name,
        control=control,
        output=[outputs[q] for q in query],
        parsed=[firsts[q] for q in query],
        truth=[truths[q] for q in query],
        score=rank[query].astype(float),
        status=list(status[query]),
    )


def statistics(table: Table) -> dict[str, Statistic]:
    """Recalls, median ranks, and the recall at 1 of an answer by chance, for each direction."""
    out: dict[str, Statistic] = {}
    recalls: list[Statistic] = []
    for direction in (TO_TEXT, TO_IMAGE):
        rows = table.where(prompt=direction, control="")
        rank = table["score"][rows]
        for k in RECALLS:
            out[f"{direction}_r{k}"] = mean(rank <= k, rows)
            recalls.append(out[f"{direction}_r{k}"])
        out[f"{direction}_median_rank"] = median(rank, rows)
        truths = [json.loads(text) for text in table["truth"][rows]]
        out[f"{direction}_chance_r1"] = mean(
            np.array([truth["right"] / truth["of"] for truth in truths]), rows
        )
        blind = table.where(prompt=direction, control="wrong_image")
        if len(blind):
            out[f"{direction}_wrong_image_r1"] = mean(table["score"][blind] <= 1, blind)
    asked = table.where(control="")
    out["mean_recall"] = average(recalls)
    out["unparsed"] = mean(table["status"][asked] == "unparsed", asked)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",), ("captions", "caption")),
    capabilities=((EncodesImages, EncodesText), (ScoresTexts,)),
    run=run,
    statistics=statistics,
)
