"""The README's table of the catalog."""

from __future__ import annotations

from oculex import catalog


def systems_markdown() -> str:
    rows = ["| | system | title | family | status |", "|--:|---|---|---|---|"]
    rows += [
        f"| {r.number} | `{r.name}` | {r.title} | {r.family} | {catalog.status(r)} |" for r in catalog.ROWS
    ]
    return "\n".join(rows) + "\n"
