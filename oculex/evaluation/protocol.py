"""One protocol for every kind of model: ask, record, and compute every number from the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oculex.contracts import BadSample, Sample, Source, UserError
from oculex.evaluation import (
    captioning,
    compositional,
    control,
    detection,
    drawing,
    emergent,
    finetune,
    grounding,
    image_retrieval,
    knn,
    labels,
    language,
    matching,
    probe,
    questions,
    retrieval,
    segmentation,
    shifts,
    tokenization,
    zeroshot,
)
from oculex.evaluation.embed import Embedder
from oculex.evaluation.prompts import prompts
from oculex.evaluation.records import Table, concat
from oculex.evaluation.statistics import Difference, Estimate, paired
from oculex.evaluation.task import Context, EvalSet, Task, Untrained

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        zeroshot.TASK,
        labels.TASK,
        retrieval.TASK,
        compositional.TASK,
        compositional.ORDER,
        matching.TASK,
        emergent.TASK,
        language.TASK,
        questions.VQA,
        questions.POPE,
        captioning.TASK,
        drawing.TASK,
        tokenization.TASK,
        grounding.TASK,
        detection.TASK,
        segmentation.TASK,
        shifts.TASK,
        image_retrieval.TASK,
        control.CONTROL,
        control.IMITATION,
        finetune.TASK,
        knn.TASK,
        probe.TASK,
    )
}
"""In this order; the first metric of an evaluation is its headline."""

KEY = ("set", "task", "item", "prompt", "control")


@dataclass(frozen=True)
class Evaluation:
    table: Table
    metrics: dict[str, Estimate]
    """"SET/TASK/METRIC" -> estimate."""
    skipped: tuple[tuple[str, str, str], ...]
    """(set, sample, reason) of each sample that could not be read; none was replaced."""
    refused: dict[str, str]
    """"SET/TASK" -> why the task was not asked."""


def evaluate(
    system: Any,
    sets: Mapping[str, EvalSet],
    *,
    device: torch.device | str | None = None,
    cache: Path | None = None,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    also: Sequence[str] = (),
    untrained: Untrained | None = None,
    precision: str = "32-true",
    batch: int = 256,
) -> Evaluation:
    """Asks a system everything that its capabilities and the sets' samples allow.

    ``tasks``: those to ask; None: all but those that are asked where they are named, ``also`` names these. ``untrained``
    is the system before it took any weights. ``limit`` takes so many samples of each part, the same ones for every model.
    With ``cache`` an interrupted evaluation goes on where it stopped. Under ``torch.distributed`` all ranks call this
    and get the same.
    """
    unknown = [name for name in (*(tasks or ()), *also) if name not in TASKS]
    if unknown:
        raise UserError(f"no evaluation task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    embedder = Embedder(system, device=device, cache=cache, limit=limit, precision=precision, batch=batch)
    asked = [name for name, task in TASKS.items() if not task.named_only] if tasks is None else tasks
    wanted = [task for name, task in TASKS.items() if name in (*asked, *also)]
    tables, skipped, refused = [], [], {}
    for name, evalset in sets.items():
        sample = _first(evalset.test)
        context = Context(name, embedder, prompts(evalset.prompts), evalset.train, untrained, evalset.judges)
        for task in wanted:
            why = task.refusal(system, sample, evalset)
            if why:
                refused[f"{name}/{task.name}"] = why
            else:
                tables.append(task.run(system, evalset.test, context))
        skipped += [(name, key, reason) for key, reason in embedder.forget()]
    table = concat(tables)
    return Evaluation(table, metrics(table), tuple(skipped), refused)


def metrics(table: Table) -> dict[str, Estimate]:
    """Every metric, from the records alone."""
    return {
        f"{name}/{task.name}/{metric}": estimate
        for name, task, part in _parts(table)
        for metric, estimate in task.metrics(part).items()
    }


def compare(a: Table, b: Table) -> dict[str, Difference]:
    """a - b for every metric, paired on the items that both answered; n counts these."""
    rows_a, rows_b = _keys(a), _keys(b)
    common = sorted(rows_a.keys() & rows_b.keys())
    if not common:
        raise UserError("the two evaluations have no item in common; evaluate both on the same data")
    for key in common:
        if a["truth"][rows_a[key]] != b["truth"][rows_b[key]]:
            raise UserError(
                f"{key[0]}: {key[2]} has other right answers in the two; give both the same --limit"
            )
    both = concat([t.rows(np.array([r[key] for key in common])) for t, r in ((a, rows_a), (b, rows_b))])
    ours = np.repeat([True, False], len(common))
    out: dict[str, Difference] = {}
    for name, task, part in _parts(both):
        rows = both.where(set=name, task=task.name)
        found = paired(task.statistics(part), part["cluster"], ours[rows])
        out |= {f"{name}/{task.name}/{metric}": difference for metric, difference in found.items()}
    return out


def as_json(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | int | None]]:
    """{name: {value, low, high, n}}; a bound that is infinite or unknown is null."""
    return {
        name: {key: value if isfinite(value) else None for key, value in vars(estimate).items()}
        for name, estimate in estimates.items()
    }


def _parts(table: Table) -> Iterator[tuple[str, Task, Table]]:
    """Records by set and task: sets in the order of the table, tasks in the order of ``TASKS``."""
    unknown = set(table["task"]) - set(TASKS)
    if unknown:
        raise UserError(f"records of the unknown task {', '.join(sorted(unknown))}; evaluate again")
    for name in dict.fromkeys(table["set"]):
        for task in TASKS.values():
            part = table.select(set=name, task=task.name)
            if len(part):
                yield name, task, part


def _keys(table: Table) -> dict[tuple[str, ...], int]:
    keys = list(zip(*(table[column] for column in KEY), strict=True))
    index = {key: row for row, key in enumerate(keys)}
    if len(index) < len(keys):
        raise UserError(
            "records answer an item twice; compare the records of one evaluation of one model each"
        )
    return index


def _first(source: Source) -> Sample:
    """The first readable sample, which tells what samples have."""
    for index in range(len(source)):
        try:
            return source[index]
        except BadSample:
            continue
    raise UserError(f"{source.name}: no sample can be read")
