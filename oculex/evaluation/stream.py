"""What a stream of tasks left: recall on every task after every task, and what was forgotten.

R[i, j] is the recall at 1, mean of both directions, on task j's held-out pairs after stage i was trained. All numbers
are pure functions of the record tables that a run keeps at the end of each stage, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oculex.contracts import UserError
from oculex.evaluation import retrieval
from oculex.evaluation.measures import Combination, Statistic, average, mean
from oculex.evaluation.records import Table, concat, read
from oculex.evaluation.statistics import Estimate, intervals


@dataclass(frozen=True)
class Stream:
    """A run's stages, which are also its tasks."""

    tasks: tuple[str, ...]
    """Names of the sets, in the order of training."""
    recall: tuple[tuple[Estimate, ...], ...]
    """R[i, j]."""
    final_recall: Estimate
    """Mean of R[T, j] over all tasks j (as CTP's authors take it, Zhu et al. 2023, but task by task)."""
    forgetting: Estimate
    """Mean over earlier tasks j of max over i < T of R[i, j] - R[T, j] (Chaudhry et al. 2018, Riemannian Walk, equation
    3). The best stage is taken from the same records, so where nothing is forgotten it lies a little above 0."""
    backward_transfer: Estimate
    """Mean over earlier tasks j of R[T, j] - R[j, j] (Lopez-Paz and Ranzato 2017, equation 3)."""


def measure(tables: Sequence[Table]) -> Stream | None:
    """The stream of a run's record tables, one for each stage; None where these are no stages of a stream.

    Intervals resample images, each with its answers at all stages, so differences between stages are paired.
    """
    tasks = tuple(dict.fromkeys(tables[-1]["set"])) if tables else ()
    if len(tables) < 2 or len(tables) != len(tasks):
        return None
    rows = [
        each.rows(np.flatnonzero((each["task"] == retrieval.NAME) & (each["control"] == "")))
        for each in tables
    ]
    whole = concat(rows)
    stage = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    right = (whole["status"] == "right").astype(float)
    cells = [[_recall(whole, right, stage == i, task) for task in tasks] for i in range(len(rows))]
    if any(cell is None for line in cells for cell in line):
        return None
    clusters = np.array([f"{a}/{b}" for a, b in zip(whole["set"], whole["cluster"], strict=True)], object)
    single = {
        f"{i} {j}": cell for i, line in enumerate(cells) for j, cell in enumerate(line) if cell is not None
    }
    plain = intervals(single, clusters)
    last, earlier = len(rows) - 1, range(len(tasks) - 1)
    best = [max(range(last), key=lambda i: plain[f"{i} {j}"].value) for j in earlier]
    summed = intervals(
        {
            "final": average([single[f"{last} {j}"] for j in range(len(tasks))]),
            "forgetting": _changes([(single[f"{best[j]} {j}"], single[f"{last} {j}"]) for j in earlier]),
            "transfer": _changes([(single[f"{last} {j}"], single[f"{j} {j}"]) for j in earlier]),
        },
        clusters,
    )
    recall = tuple(tuple(plain[f"{i} {j}"] for j in range(len(tasks))) for i in range(len(rows)))
    return Stream(tasks, recall, summed["final"], summed["forgetting"], summed["transfer"])


def of(records: Path) -> Stream | None:
    """The stream whose tables lie in a run's folder of records."""
    return measure([read(path) for path in sorted(records.glob("step-*.parquet"))])


def final_recall(records: Path) -> float:
    """Mean over the sets of a run's last table of the recall at 1, both directions; of a stream or not."""
    last = read(max(records.glob("step-*.parquet")))
    rows = last.rows(np.flatnonzero((last["task"] == retrieval.NAME) & (last["control"] == "")))
    right, everywhere = (rows["status"] == "right").astype(float), np.ones(len(rows), bool)
    parts = [_recall(rows, right, everywhere, task) for task in dict.fromkeys(rows["set"])]
    return intervals({"": average([part for part in parts if part is not None])}, rows["cluster"], draws=1)[
        ""
    ].value


def backward_transfer(records: Path) -> float:
    """Raises UserError where the run was no stream."""
    found = of(records)
    if found is None:
        raise UserError(
            f"{records} has not one table for each task; backward transfer needs a run with data.stream"
        )
    return found.backward_transfer.value


def _recall(table: Table, right: np.ndarray, at: np.ndarray, task: str) -> Statistic | None:
    chosen = [
        np.flatnonzero(at & (table["set"] == task) & (table["prompt"] == way))
        for way in (retrieval.TO_TEXT, retrieval.TO_IMAGE)
    ]
    return average([mean(right[rows], rows) for rows in chosen]) if all(map(len, chosen)) else None


def _changes(pairs: Sequence[tuple[Statistic, Statistic]]) -> Combination:
    """Mean of the first less the second of each pair."""
    parts = tuple(part for pair in pairs for part in pair)
    rows = np.unique(np.concatenate([part.rows for part in parts]))
    return Combination(parts, (1.0, -1.0) * len(pairs), rows, over=len(pairs))
