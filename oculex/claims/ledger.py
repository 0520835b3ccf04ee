"""The ledger: what was claimed, what was measured. The committed entries are the catalog's evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oculex import catalog
from oculex.contracts import UserError
from oculex.training.folder import read_json, write_json


def enter(result: dict[str, Any], out: Path) -> Path:
    """Writes a judged claim to OUT/ledger/SYSTEM.CLAIM.json; an older result of the same claim is replaced."""
    path = out / "ledger" / f"{result['system']}.{result['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return path


def entries(out: Path | None = None) -> list[dict[str, Any]]:
    """Results under OUT/ledger, or those that oculex ships, by system and name."""
    if out is not None:
        found = [read_json(path) for path in (out / "ledger").glob("*.json")]
    else:
        rows = [*catalog.ROWS, *catalog.BASELINES]
        found = [result for row in rows for result in catalog.evidence(row.name).get("claim", {}).values()]
    return sorted(found, key=lambda result: (result["system"], result["name"]))


def merged(out: Path) -> list[dict[str, Any]]:
    """The shipped entries and those under ``out``; the newer stand for the older. UserError where there is none."""
    found = {(entry["system"], entry["name"]): entry for entry in [*entries(), *entries(out)]}
    if not found:
        raise UserError("the ledger is empty; `oculex claim NAME` measures a system's claims")
    return [found[key] for key in sorted(found)]


def record(names: Sequence[str], out: Path) -> None:
    """Takes results from ``out`` into the evidence that the repository carries."""
    for result in entries(out):
        if result["system"] in names:
            path = catalog.evidence_path(result["system"])
            evidence = catalog.evidence(result["system"])
            evidence.setdefault("claim", {})[result["name"]] = result
            write_json(path, evidence)
