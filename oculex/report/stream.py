"""A stream of tasks: recall on every task after every task, and what was forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oculex.report.measures import shade, share, span


def section(records: Path) -> dict[str, Any] | None:
    """The matrix and its sums; None where the run was no stream. Rows are the tasks trained, columns those asked."""
    from oculex.evaluation import stream

    found = stream.of(records)
    if found is None:
        return None
    sums = [
        ("mean recall at the end", found.final_recall),
        ("forgotten of earlier tasks", found.forgetting),
        ("backward transfer", found.backward_transfer),
    ]
    return {
        "names": found.tasks,
        "rows": [
            (f"after {after}", [_cell(found.recall[i][j], i, j) for j in range(len(found.tasks))])
            for i, after in enumerate(found.tasks)
        ],
        "sums": [(name, share(e.value), span(e.low, e.high, True)) for name, e in sums],
    }


def _cell(estimate: Any, trained: int, asked: int) -> dict[str, Any]:
    return {
        "value": share(estimate.value),
        "span": span(estimate.low, estimate.high, True),
        "kind": "own" if trained == asked else "seen" if asked < trained else "unseen",
        "shade": shade(estimate.value),
    }
