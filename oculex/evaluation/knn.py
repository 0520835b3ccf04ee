"""Weighted k-nearest-neighbour classification of image features (Wu et al., Instance Discrimination, 2018,
section 3.4; the protocol of DINO): 20 neighbours by cosine, each voting with exp(cosine / 0.07)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from oculex.contracts import RepresentsImages, Source
from oculex.evaluation import classification
from oculex.evaluation.measures import Statistic
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context, Task

NAME = "knn"
NEIGHBOURS = 20
TEMPERATURE = 0.07
CELLS = 1 << 25
"""Similarities held at a time."""


def votes(queries: Tensor, known: Tensor, labels: Tensor, classes: int, k: int = NEIGHBOURS) -> Tensor:
    """Votes [n, classes] for queries [n, F] from features [m, F] with labels [m]."""
    known = normalize(known, dim=-1)
    k, step = min(k, len(known)), max(1, CELLS // len(known))
    out = queries.new_zeros(len(queries), classes)
    for start in range(0, len(queries), step):
        near = (normalize(queries[start : start + step], dim=-1) @ known.T).topk(k, dim=1)
        out[start : start + step].scatter_add_(1, labels[near.indices], (near.values / TEMPERATURE).exp())
    return out


def run(system: Any, source: Source, context: Context) -> Table:
    parts = classification.labelled(source, context)
    if parts is None:
        return Table.empty()
    test, train = parts
    scores = votes(test.features, train.features, train.labels, len(source.classes))
    return classification.answers(scores, test.items, test.labels, source.classes, context, NAME)


def statistics(table: Table) -> dict[str, Statistic]:
    return classification.statistics(table, table.where(control=""))


TASK = Task(
    name=NAME,
    needs=(("image",), ("label",)),
    capabilities=((RepresentsImages,),),
    run=run,
    statistics=statistics,
    trains=True,
    classifies=True,
)
