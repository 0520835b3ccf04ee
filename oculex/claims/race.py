"""A race: systems on the same data, with the same budget and seed, judged by the same held-out items."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oculex import catalog, runs
from oculex.contracts import Recipe, UserError
from oculex.evaluation import as_json, compare
from oculex.evaluation.curves import along
from oculex.evaluation.measures import LESS_IS_BETTER
from oculex.evaluation.records import Table, read
from oculex.training import recipes
from oculex.training.folder import RunFolder, finished, read_lines, write_json

POINTS = 8
"""Evaluations along each system's run."""


def race(
    names: Sequence[str],
    data: Sequence[str] = (),
    budget: str = "3m",
    out: Path | None = None,
    seed: int = 0,
    changes: Mapping[str, Any] | Sequence[str] = (),
) -> tuple[dict[str, Any], Path]:
    """Trains each system and writes race.json; (result, folder).

    All are evaluated as the first system's preset says. The metric is the first that every system is evaluated by;
    raises UserError where there is none in common.
    """
    if len(set(names)) < len(names):
        raise UserError("a race needs different systems; each name once")
    out = out or Path("runs") / f"race-{time.strftime('%Y%m%d-%H%M%S')}"
    wanted = {
        name: runs.customised(recipes.preset(catalog.load(name), name, "tiny"), data, budget, seed, changes)
        for name in names
    }
    protocol = dataclasses.replace(wanted[names[0]].evaluation, every=0, times=POINTS)
    folders = {
        name: _raced(dataclasses.replace(wanted[name], evaluation=protocol), out / name) for name in names
    }
    lines = {name: list(read_lines(folder.evaluations)) for name, folder in folders.items()}
    metric = _common(lines)
    result = {
        "metric": metric,
        "budget": budget,
        "data": list(data) or ["world"],
        "seed": seed,
        "systems": {name: _system(folders[name], lines[name], metric) for name in names},
        "less_is_better": metric.endswith(LESS_IS_BETTER),
        **_paired(folders, lines, metric),
    }
    write_json(out / "race.json", result)
    return result, out


def _raced(recipe: Recipe, out: Path) -> RunFolder:
    folder = runs.start(recipe, out)
    if not finished(folder):  # it was asked to
        raise UserError(f"stopped in {out}; a race that is begun anew needs another folder")
    return folder


def _common(lines: dict[str, list[dict[str, Any]]]) -> str:
    shared = set.intersection(*(set(each[-1]["metrics"]) for each in lines.values()))
    first = next(iter(lines.values()))[-1]["metrics"]
    for metric in first:  # evaluations name their headline metric first
        if metric in shared:
            return metric
    raise UserError(f"{', '.join(lines)} are not evaluated by any common metric; race systems of one kind")


def _system(folder: RunFolder, lines: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    curve = [
        [
            line["seconds"],
            line["samples"],
            *(line["metrics"][metric][key] for key in ("value", "low", "high")),
        ]
        for line in along(lines, metric)
    ]
    rates = [line["samples_per_s"] for line in read_lines(folder.metrics)]
    return {
        "curve": curve,
        "final": lines[-1]["metrics"][metric],
        "metrics": lines[-1]["metrics"],
        "parameters": runs.parameters(folder.path),
        "samples_per_s": sorted(rates)[len(rates) // 2] if rates else 0.0,
        "run": str(folder.path),
    }


def _paired(
    folders: dict[str, RunFolder], lines: dict[str, list[dict[str, Any]]], metric: str
) -> dict[str, Any]:
    """Who leads, by how much, and how it compares in all else (leader - other, on the same items)."""
    finals = {name: each[-1]["metrics"][metric]["value"] for name, each in lines.items()}
    leader = (min if metric.endswith(LESS_IS_BETTER) else max)(finals, key=lambda name: finals[name])
    differences = {
        name: compare(_records(folders[leader]), _records(folder))
        for name, folder in folders.items()
        if name != leader
    }
    return {
        "leader": leader,
        "ahead": as_json({name: each[metric] for name, each in differences.items()}),
        "differences": {name: as_json(each) for name, each in differences.items()},
    }


def _records(folder: RunFolder) -> Table:
    return read(runs.last_records(folder))
