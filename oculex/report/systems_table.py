"""The README's table of the catalog."""

from __future__ import annotations

from oculex import catalog
from oculex.report.ledger import cell


def systems_markdown() -> str:
    """A Markdown table of the numbered rows: number, name, title, family, status."""
    rows = ["| | system | title | family | status |", "|--:|---|---|---|---|"]
    rows += [
        f"| {r.number} | `{r.name}` | {cell(r.title)} | {r.family} | {catalog.status(r)} |"
        for r in catalog.ROWS
    ]
    return "\n".join(rows) + "\n"
