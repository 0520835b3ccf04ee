"""The catalog as tables: what is built, for the README, and all of it, for docs/systems.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from oculex import catalog
from oculex.report.ledger import VERDICTS, cell, ledger_markdown


def built_markdown() -> str:
    """A Markdown table of the numbered rows that run or work, with the verdicts on their claims."""
    rows = ["| | system | title | status | claims |", "|--:|---|---|---|---|"]
    for row in catalog.ROWS:
        status = catalog.status(row)
        if status != "planned":
            claims = verdicts(_claims(row.name))
            rows.append(f"| {row.number} | `{row.name}` | {cell(row.title)} | {status} | {claims} |")
    return "\n".join(rows) + "\n"


def systems_markdown() -> str:
    """A Markdown table of the numbered rows: number, name, title, family, status."""
    rows = ["| | system | title | family | status |", "|--:|---|---|---|---|"]
    rows += [
        f"| {r.number} | `{r.name}` | {cell(r.title)} | {r.family} | {catalog.status(r)} |"
        for r in catalog.ROWS
    ]
    return "\n".join(rows) + "\n"


def claims_markdown() -> str:
    """The ledger as a Markdown table, in the catalog's order."""
    return ledger_markdown([claim for row in catalog.ROWS for claim in _claims(row.name)])


def verdicts(claims: Iterable[Mapping[str, Any]]) -> str:
    """How many claims got which verdict: "holds: 2, inconclusive: 1"."""
    counts = Counter(claim["verdict"] for claim in claims)
    return ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])


def _claims(name: str) -> list[Mapping[str, Any]]:
    """Those of a system that were judged."""
    return list(catalog.evidence(name).get("claim", {}).values())
