"""Who finds whom: recall at 1 between any two kinds of what a sample has, as a matrix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oculex.report.measures import shade, share, span

if TYPE_CHECKING:
    from oculex.evaluation.records import Table


def section(found: Sequence[Table]) -> dict[str, Any] | None:
    """The matrix of the newest table that has one: rows ask, columns are searched."""
    from oculex.evaluation import emergent

    for table in found:
        part = table.select(task=emergent.NAME)
        if len(part):
            return _shown(part.select(set=part["set"][0]), emergent)
    return None


def _shown(table: Table, emergent: Any) -> dict[str, Any]:
    estimates = emergent.TASK.metrics(table)
    directions = list(dict.fromkeys(table["prompt"]))
    names = list(dict.fromkeys(name for each in directions for name in each.split(emergent.BETWEEN)))
    size = json.loads(table["truth"][0])["of"]
    rows = []
    for asks in names:
        cells = []
        for searched in names:
            direction = f"{asks}{emergent.BETWEEN}{searched}"
            cells.append(
                _cell(estimates[f"{direction}_r1"], emergent.paired(direction)) if asks != searched else None
            )
        rows.append((asks, cells))
    return {"names": names, "rows": rows, "n": size, "chance": share(1 / size), "set": table["set"][0]}


def _cell(estimate: Any, paired: bool) -> dict[str, Any]:
    return {
        "value": share(estimate.value),
        "span": span(estimate.low, estimate.high, True),
        "kind": "paired" if paired else "unpaired",
        "shade": shade(estimate.value),
    }
