"""Phrase grounding and referring expressions: is what a phrase means found in the picture?

Every phrase of every ``grounded`` text of a sample asks for its boxes; any of those that it means is right where the
overlap (intersection over union) is at least a half. Recall at k counts the phrases of which one of the k best boxes
is right: the "any box" protocol of Flickr30k Entities (Kamath et al. 2021, MDETR, section 4.2.1), and for an
expression, which means one box, RefCOCO's accuracy. Phrases that mean no box that can be seen are not asked.

Records: ``item`` is image#text.phrase, ``cluster`` the image, ``prompt`` the kind of text; ``output`` the boxes in
pixels and their scores; ``parsed`` the first box, empty where there is none; ``truth`` the phrase and what it means;
``score`` the rank of the first right box, 0 where none of them is; ``status`` right at rank 1, unparsed where there
is no box. ``control`` wrong_image: the same phrases in another picture, whose places are those of the asked one in
shares of its sides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oculex.contracts import GroundsPhrases, Sample, Source
from oculex.data.boxes import checked, picture_size, solid
from oculex.evaluation.measures import Statistic, mean
from oculex.evaluation.reader import Whole
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image

NAME = "grounding"
RECALLS = (1, 5, 10)
MOST = max(RECALLS)
ENOUGH = 0.5
DIGITS = 2


@dataclass(frozen=True)
class Asked:
    """A text of a sample: where the sample is, its id, the text and which boxes each phrase means, in pixels."""

    index: int
    image: str
    id: str
    text: Mapping[str, Any]
    means: Sequence[np.ndarray]
    size: tuple[int, int]


class Texts(Whole):
    """The asked texts as a source of pictures with one text each; ``shown`` says whose picture is shown."""

    classes: tuple[str, ...] = ()

    def __init__(self, source: Source, asked: Sequence[Asked], shown: Sequence[Asked]) -> None:
        self.source, self.asked, self.shown, self.name = source, asked, shown, source.name

    def fingerprint(self) -> str:
        told = [
            (own.id, own.text["text"], own.text["spans"], other.index)
            for own, other in zip(self.asked, self.shown, strict=True)
        ]
        return json.dumps([self.source.fingerprint(), told])

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, number: int, /) -> Sample:
        own, other = self.asked[number], self.shown[number]
        return {"id": own.id, "image": self.source[other.index]["image"], "grounded": [own.text]}


def overlaps(a: np.ndarray, b: np.ndarray, of_first: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]; over the first box's area where ``of_first`` [m]."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    first, second = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    whole = first[:, None] + second - shared
    if of_first is not None:
        whole = np.where(of_first, first[:, None], whole)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def run(system: Any, source: Source, context: Context) -> Table:
    asked = [
        each
        for index, sample in context.embedder.readable(source)
        if "image" in sample
        for each in _asked(index, sample)
    ]
    if not asked:
        return Table.empty()
    shown = {"": list(range(len(asked)))}
    images = list(dict.fromkeys(each.image for each in asked))
    if len(images) > 1:
        first = {each.image: number for number, each in reversed(list(enumerate(asked)))}
        other = dict(zip(images, (images[n] for n in wrong_image(images)), strict=True))
        shown["wrong_image"] = [first[other[each.image]] for each in asked]
    return concat(
        [
            _records(asked, Texts(source, asked, [asked[n] for n in which]), context, control)
            for control, which in shown.items()
        ]
    )


def _asked(index: int, sample: Sample) -> list[Asked]:
    boxes, size = checked(sample.get("boxes", ()), sample["id"]), picture_size(sample)
    seen = solid(boxes)
    found = []
    for number, text in enumerate(sample.get("grounded") or ()):
        means = [boxes[[n for n in meant if seen[n]]] for meant in text["boxes"]]
        if any(map(len, means)):
            found.append(Asked(index, str(sample["id"]), f"{sample['id']}#{number}", text, means, size))
    return found


def _records(asked: Sequence[Asked], texts: Texts, context: Context, control: str) -> Table:
    found = context.embedder.grounded(texts, MOST)
    by_id = dict(zip(found.ids, found.values, strict=True))
    rows = [
        (own, phrase, by_id[own.id][phrase])
        for own in asked
        if own.id in by_id
        for phrase, means in enumerate(own.means)
        if len(means)
    ]
    if not rows:
        return Table.empty()
    boxes = [np.round(best[:, :4] * np.tile(own.size, 2), DIGITS) for own, _, best in rows]
    kept = [each[np.isfinite(each).all(1)] for each in boxes]
    ranks = [_rank(each, own.means[phrase]) for each, (own, phrase, _) in zip(kept, rows, strict=True)]
    return Table.of(
        set=context.set,
        task=NAME,
        item=[f"{own.id}.{phrase}" for own, phrase, _ in rows],
        cluster=[own.image for own, _, _ in rows],
        model=context.embedder.model,
        prompt=[own.text.get("kind", "phrases") for own, _, _ in rows],
        control=control,
        output=[
            json.dumps(
                {"boxes": each.tolist(), "scores": np.round(best[: len(each), 4].astype(float), 4).tolist()}
            )
            for each, (_, _, best) in zip(kept, rows, strict=True)
        ],
        parsed=[json.dumps(each[0].tolist()) if len(each) else "" for each in kept],
        truth=[
            json.dumps(
                {"phrase": _words(own, phrase), "boxes": np.round(own.means[phrase], DIGITS).tolist()},
                ensure_ascii=False,
            )
            for own, phrase, _ in rows
        ],
        score=[float(rank) for rank in ranks],
        status=[
            "right" if rank == 1 else "wrong" if len(each) else "unparsed"
            for rank, each in zip(ranks, kept, strict=True)
        ],
    )


def _rank(boxes: np.ndarray, means: np.ndarray) -> int:
    """Of the first box that is right, from 1; 0 where none is."""
    right = (overlaps(boxes.astype(float), means.astype(float)) >= ENOUGH).any(1)
    return int(right.argmax()) + 1 if right.any() else 0


def _words(own: Asked, phrase: int) -> str:
    return " ".join(own.text["text"][start:end] for start, end in own.text["spans"][phrase])


def statistics(table: Table) -> dict[str, Statistic]:
    """Recall at 1, 5 and 10 for each kind of text, and at 1 in another picture."""
    out: dict[str, Statistic] = {}
    for kind in dict.fromkeys(table["prompt"]):
        rows = table.where(prompt=kind, control="")
        rank = table["score"][rows]
        for k in RECALLS:
            out[f"{kind}_r{k}"] = mean((rank > 0) & (rank <= k), rows)
        blind = table.where(prompt=kind, control="wrong_image")
        if len(blind):
            out[f"{kind}_wrong_image_r1"] = mean(table["score"][blind] == 1, blind)
    asked = table.where(control="")
    out["unparsed"] = mean(table["status"][asked] == "unparsed", asked)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",), ("grounded",), ("boxes",)),
    capabilities=((GroundsPhrases,),),
    run=run,
    statistics=statistics,
)
