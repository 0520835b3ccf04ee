"""The ledger: what was claimed, what was measured. The committed entries are the catalog's evidence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from oculex import catalog
from oculex.contracts import UserError
from oculex.training.folder import read_json, write_json

POINTS = 24
"""Of a curve in the evidence that the repository carries."""


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
    """The shipped entries and those under ``out``, which stand for shipped ones of the same claim.

    Raises UserError where there is none.
    """
    found = {(entry["system"], entry["name"]): entry for entry in [*entries(), *entries(out)]}
    if not found:
        raise UserError("the ledger is empty; `oculex claim NAME` measures a system's claims")
    return [found[key] for key in sorted(found)]


def record(results: Iterable[dict[str, Any]]) -> None:
    """Takes judged claims into the evidence that the repository carries, their curves thinned and rounded.

    Raises UserError for one that was run otherwise than it is written.
    """
    for result in results:
        _check(result)
        curves = {arm: [_thin(curve) for curve in seeds] for arm, seeds in result.get("curves", {}).items()}
        catalog.record(result["system"], "claim", {result["name"]: result | {"curves": curves}})


def _check(result: dict[str, Any]) -> None:
    written = {claim.name: claim for claim in catalog.load(result["system"]).claims}
    claim = written.get(result["name"])
    if claim is None or (claim.budget, list(claim.seeds), claim.threshold) != (
        result["budget"],
        list(result["seeds"]),
        result["threshold"],
    ):
        raise UserError(
            f"{result['system']} / {result['name']} was run otherwise than the claim is written (budget, seeds, "
            f"threshold), so it is no evidence; run `oculex claim {result['system']}` without --budget"
        )


def _thin(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``POINTS`` points, evenly spread, the last among them."""
    step = -(-len(curve) // POINTS)
    return [(samples, float(f"{value:.5g}")) for samples, value in curve[::-1][::step][::-1]]
