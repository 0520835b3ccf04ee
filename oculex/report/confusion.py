"""What is mistaken for what: the most confused pairs as a list, everything as a heat map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oculex.report import charts
from oculex.report.html import svg
from oculex.report.measures import Measure

if TYPE_CHECKING:
    from oculex.evaluation.records import Table

PAIRS = 14
LARGEST = 200
"""Rows of the heat map; of more classes, those with the most mistakes are drawn."""


def tables(folder: Path) -> list[Table]:
    """The record tables of a run, the newest first."""
    from oculex.evaluation.records import read

    return [read(path) for path in sorted(folder.glob("*.parquet"), key=_time, reverse=True)]


def classes(found: Sequence[Table]) -> dict[tuple[str, str], int]:
    """(set, task) -> how many classes there are to choose from."""
    counts: dict[tuple[str, str], int] = {}
    for table in found:
        for key, rows in _answers(table).items():
            names = {*table["truth"][rows], *table["parsed"][rows]} - {""}
            counts[key] = max(len(names), counts.get(key, 0))
    return counts


def section(found: Sequence[Table]) -> dict[str, Any] | None:
    """The classification of most items, of the newest table among equals: its prompt ensemble, without controls."""
    most: tuple[str, str, list[str], list[str]] | None = None
    for table in found:
        for (group, task), rows in list(_answers(table).items())[:1]:
            if most is None or len(rows) > len(most[2]):
                most = group, task, table["truth"][rows].tolist(), table["parsed"][rows].tolist()
    return _shown(Measure.of(f"{most[0]}/{most[1]}/top1").heading, *most[2:]) if most else None


def _answers(table: Table) -> dict[tuple[str, str], np.ndarray]:
    """(set, task) -> rows of each task that chooses among classes, in its first prompt."""
    from oculex.evaluation.protocol import TASKS

    out = {}
    for task in (name for name, each in TASKS.items() if each.classifies):
        for group in dict.fromkeys(table["set"][table.where(task=task)]):
            rows = table.where(set=group, task=task, control="")
            if len(rows):
                out[group, task] = rows[table["prompt"][rows] == table["prompt"][rows[0]]]
    return out


def _shown(heading: str, truth: list[str], answer: list[str]) -> dict[str, Any]:
    counts, totals = Counter(zip(truth, answer, strict=True)), Counter(truth)
    wrong = [(t, a, n, n / totals[t]) for (t, a), n in counts.most_common() if t != a and a]
    missed = Counter(t for t, a in zip(truth, answer, strict=True) if t != a)
    names = sorted({*truth, *answer} - {""})
    drawn = set(sorted(names, key=lambda name: -missed[name])[:LARGEST])
    names, groups = ordered([name for name in names if name in drawn], [(t, a) for t, a, _, _ in wrong])
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), int)
    for (t, a), n in counts.items():
        if t in place and a in place:
            matrix[place[t], place[a]] = n
    return {
        "heading": heading,
        "n": len(truth),
        "right": sum(t == a for t, a in zip(truth, answer, strict=True)),
        "silent": answer.count(""),
        "classes": len({*truth, *answer} - {""}),
        "drawn": len(names),
        "pairs": wrong[:PAIRS],
        "most": wrong[0][2] if wrong else 1,
        "svg": svg(charts.heat(matrix, names, groups, f"confusion matrix of {len(names)} classes")),
    }


def ordered(
    names: Sequence[str], mistakes: Sequence[tuple[str, str]]
) -> tuple[list[str], list[tuple[str, int]]]:
    """Names in an order that brings confused ones together, and labels of its stretches.

    Names of two words or more ("red cube") are grouped by their first or their last word, by that which more
    mistakes leave unchanged; others stay in alphabetical order, labelled one by one where they are few.
    """
    best: tuple[int, list[str], list[tuple[str, int]]] | None = None
    for word in (0, -1):
        key = {name: (name.split() or [""])[word] for name in names}
        groups = Counter(key.values())
        if 1 < len(groups) <= 30 and len(names) >= 3 * len(groups):
            inside = sum(t in key and a in key and key[t] == key[a] for t, a in mistakes)
            order = sorted(names, key=lambda name: (key[name], name))
            if best is None or inside > best[0]:
                best = (inside, order, [(name, groups[name]) for name in sorted(groups)])
    if best:
        return best[1], best[2]
    return sorted(names), [(name, 1) for name in sorted(names)] if len(names) <= 24 else []


def _time(path: Path) -> float:
    return path.stat().st_mtime
