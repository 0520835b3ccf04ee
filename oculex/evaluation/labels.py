"""Classification by a system's own classifier: the class with the largest logit, among those it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oculex.contracts import Classifies, Sample, Source
from oculex.evaluation import classification
from oculex.evaluation.measures import Statistic
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context, EvalSet, Task

NAME = "classify"


def run(system: Any, source: Source, context: Context) -> Table:
    found = context.embedder.logits(source)
    if not found.items:
        return Table.empty()
    truth = classification.labels(found.items, source)
    scores = torch.from_numpy(found.values)
    return classification.answers(scores, found.items, truth, source.classes, context, NAME)


def statistics(table: Table) -> dict[str, Statistic]:
    return classification.statistics(table, table.where(control=""))


class OwnClasses(Task):
    """A task for the classes that a system was trained on: the set has to name as many."""

    def refusal(self, system: Any, sample: Sample, evalset: EvalSet) -> str:
        named = len(evalset.test.classes)
        known = getattr(system, "classes", named)
        return super().refusal(system, sample, evalset) or (
            "" if named == known else f"the source names {named} classes, the classifier knows {known}"
        )


def own_classifier(
    name: str, run: Callable[..., Table], statistics: Callable[[Table], dict[str, Statistic]]
) -> Task:
    """A task for systems that classify, on sets of as many classes as they know."""
    return OwnClasses(
        name=name,
        needs=(("image",), ("label",)),
        capabilities=((Classifies,),),
        run=run,
        statistics=statistics,
        classifies=True,
    )


TASK = own_classifier(NAME, run, statistics)
