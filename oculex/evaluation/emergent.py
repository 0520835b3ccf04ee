"""Retrieval between any two kinds of what a sample has: picture, sound, depth, text. Which pairs were never trained on?

Each kind asks each other one for the same sample. Only samples that captions can tell apart take part, the first of each
first caption: language is what binds the others, and cannot bind closer than it tells apart. A pair with text is one
that language binding trains on; any other pair is emergent. A rank is 1 plus the number of wrong candidates that score at
least as much: ties count against the model, so one that embeds everything alike ranks last.

Records: ``prompt`` is the direction, "depth_to_audio"; ``item`` and ``cluster`` the sample; ``output`` {"top": the best
candidates}; ``parsed`` the first of them; ``truth`` {"id": the sample, "of": size of the gallery}; ``score`` the rank;
``status`` right at rank 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch

from oculex.contracts import BadSample, EncodesModalities, EncodesText, Source
from oculex.evaluation.cache import Item
from oculex.evaluation.measures import Statistic, average, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.retrieval import ranks
from oculex.evaluation.task import Context, Task

NAME = "emergent"
TEXT = "text"
BETWEEN = "_to_"
RECALL = (1, 10)


def run(system: Any, source: Source, context: Context) -> Table:
    embedder = context.embedder
    names = _had(system, source)
    found = embedder.modalities(source, names)
    rows = distinct(found.items)
    if len(names) < 2 or len(rows) < 2:
        return Table.empty()
    kinds = dict(zip(names, np.split(found.values[rows], len(names), axis=1), strict=True))
    kinds[TEXT] = embedder.texts([found.items[row].captions[0] for row in rows])
    ids = [found.items[row].id for row in rows]
    return concat([_records(a, b, kinds, ids, context) for a, b in permutations(kinds, 2)])


def _had(system: Any, source: Source) -> list[str]:
    """Of the system's modalities those that the first readable sample has."""
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample:
            continue  # counted and named by what embeds it
        return [name for name in system.modalities if sample.get(name) is not None]
    return []


def distinct(items: Sequence[Item]) -> list[int]:
    """Rows of the first item of each first caption; items without one are left out."""
    first: dict[str, int] = {}
    for row, item in enumerate(items):
        if item.captions:
            first.setdefault(item.captions[0], row)
    return list(first.values())


def _records(a: str, b: str, kinds: dict[str, np.ndarray], ids: list[str], context: Context) -> Table:
    device = context.embedder.device
    asked, offered = (torch.from_numpy(np.ascontiguousarray(kinds[name])).to(device) for name in (a, b))
    own = [np.array([n]) for n in range(len(ids))]
    rank, top, _ = ranks(lambda rows: asked[rows] @ offered.T, own, np.ones(len(ids), int), device)
    return Table.of(
        set=context.set,
        task=NAME,
        item=ids,
        cluster=ids,
        model=context.embedder.model,
        prompt=f"{a}{BETWEEN}{b}",
        control="",
        output=[json.dumps({"top": [ids[n] for n in row]}) for row in top.tolist()],
        parsed=[ids[row[0]] for row in top],
        truth=[json.dumps({"id": name, "of": len(ids)}) for name in ids],
        score=rank.astype(float),
        status=list(np.where(rank == 1, "right", "wrong")),
    )


def paired(direction: str) -> bool:
    """Whether language binding trains on the two: one of them is text."""
    return TEXT in direction.split(BETWEEN)


def statistics(table: Table) -> dict[str, Statistic]:
    """Recall at 1 and at 10: the mean over the pairs never trained on, over those with text, by chance, and of each
    direction."""
    out: dict[str, Statistic] = {}
    single: dict[str, Statistic] = {}
    size = np.array([json.loads(text)["of"] for text in table["truth"]])
    directions = {name: table.where(prompt=name) for name in dict.fromkeys(table["prompt"])}
    for k in RECALL:
        chance = np.minimum(1.0, k / size)
        each = {name: mean(table["score"][rows] <= k, rows) for name, rows in directions.items()}
        for group, wanted in (("never_paired", False), ("paired", True)):
            parts = [each[name] for name in directions if paired(name) == wanted]
            if parts:
                out[f"{group}_r{k}"] = average(parts)
                out[f"chance_{group}_r{k}"] = mean(chance)
        out[f"chance_r{k}"] = mean(chance)
        single |= {f"{name}_r{k}": statistic for name, statistic in each.items()}
    return out | single


TASK = Task(
    name=NAME,
    needs=(("captions", "caption"),),
    capabilities=((EncodesModalities, EncodesText),),
    run=run,
    statistics=statistics,
)
