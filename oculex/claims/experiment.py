"""Claims as controlled experiments: run the arms under one protocol, read the numbers, judge by the interval."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oculex import catalog, runs
from oculex.claims import ledger
from oculex.contracts import Arm, Claim, UserError
from oculex.evaluation.statistics import Estimate, over_seeds
from oculex.training import loop, recipes
from oculex.training.folder import RunFolder, machine, read_json, read_lines

Curve = list[tuple[float, float]]
"""[(samples seen, metric)] of one run, in order."""


def judge_claims(
    names: Sequence[str], all_systems: bool, out: Path, budget: str | None = None
) -> list[dict[str, Any]]:
    """Runs the claims of the named systems and enters each result in the ledger under ``out``."""
    if all_systems:
        names = [row.name for row in catalog.ROWS if catalog.has_code(row)]
    found = [(catalog.find(name).name, claim) for name in names for claim in catalog.load(name).claims]
    if not found:
        raise UserError(
            f"no claims are written for {', '.join(names)}; `oculex show NAME` lists a system's claims"
        )
    results = []
    for system, claim in found:
        result = judge(system, dataclasses.replace(claim, budget=budget or claim.budget), out)
        ledger.enter(result, out)
        results.append(result)
    return results


def judge(system: str, claim: Claim, out: Path) -> dict[str, Any]:
    """Runs what is missing of a claim's arms and judges it.

    Effects are compared seed by seed, so what a seed makes easy or hard for every arm cancels.
    """
    curves = {arm.name: [_curve(system, claim, arm, seed, out) for seed in claim.seeds] for arm in claim.arms}
    measure = MEASURES[claim.measure]
    values = {name: [measure(curve, claim) for curve in seeds] for name, seeds in curves.items()}
    pairs = list(zip(values[claim.treatment], values[claim.control], strict=True))
    effect = COMPARISONS[claim.compare](pairs)
    unreached = {
        name: sum(curve[-1][1] < claim.threshold for curve in seeds)
        for name, seeds in curves.items()
        if claim.measure == "samples_to"
    }
    return {
        "name": claim.name,
        "system": system,
        "statement": claim.statement,
        "paper": claim.paper,
        "arms": {name: asdict(over_seeds(each)) for name, each in values.items()},
        "effect": asdict(effect),
        "compare": claim.compare,
        "treatment": claim.treatment,
        "control": claim.control,
        "at_least": claim.at_least,
        "verdict": verdict(effect, claim.at_least),
        "measure": claim.measure,
        "threshold": claim.threshold,
        "unreached": unreached,
        "metrics": {arm.name: arm.metric for arm in claim.arms},
        "budget": claim.budget,
        "seeds": list(claim.seeds),
        "curves": curves,
        "machine": machine(),
    }


def verdict(effect: Estimate, at_least: float) -> str:
    """Holds where the whole interval lies beyond ``at_least``, does not where it lies below."""
    if effect.low > at_least:
        return "holds"
    return "does not hold at this scale" if effect.high < at_least else "inconclusive"


def _final(curve: Curve, claim: Claim) -> float:
    return curve[-1][1]


def _samples_to(curve: Curve, claim: Claim) -> float:
    """Samples at which the metric first reaches the threshold, linear between evaluations.

    A run that never reaches it counts as having needed its whole budget: a lower bound, so a ratio against such
    a control is a lower bound too; the result tells how many runs did not reach it.
    """
    before = (0.0, 0.0)
    for samples, value in curve:
        if value >= claim.threshold:
            share = (claim.threshold - before[1]) / max(value - before[1], 1e-12)
            return before[0] + max(0.0, min(1.0, share)) * (samples - before[0])
        before = (samples, value)
    return curve[-1][0]


def _difference(pairs: list[tuple[float, float]]) -> Estimate:
    return over_seeds([treatment - control for treatment, control in pairs])


def _ratio(pairs: list[tuple[float, float]]) -> Estimate:
    """Control over treatment ("times fewer"), as a geometric mean: ratios are symmetric on the log scale."""
    log = over_seeds([math.log(control / treatment) for treatment, control in pairs])
    return Estimate(math.exp(log.value), math.exp(log.low), math.exp(log.high), log.n)


MEASURES: dict[str, Callable[[Curve, Claim], float]] = {"final": _final, "samples_to": _samples_to}
COMPARISONS: dict[str, Callable[[list[tuple[float, float]]], Estimate]] = {
    "difference": _difference,
    "ratio": _ratio,
}


def _curve(system: str, claim: Claim, arm: Arm, seed: int, out: Path) -> Curve:
    source = next(a for a in claim.arms if a.name == (arm.weights_of or arm.name))
    folder = _trained(system, claim, source, seed, out)
    curve = [
        (line["samples"], line["metrics"][arm.metric]["value"])
        for line in read_lines(folder.evaluations)
        if arm.metric in line["metrics"]
    ]
    if not curve:
        known = sorted({name for line in read_lines(folder.evaluations) for name in line["metrics"]})
        raise UserError(
            f"claim {claim.name}: {folder.path} has no metric {arm.metric!r}; it has {', '.join(known)}"
        )
    return curve


def _trained(system: str, claim: Claim, arm: Arm, seed: int, out: Path) -> RunFolder:
    """The arm's run: finished before, gone on with, or begun."""
    name = arm.system or system
    recipe = recipes.preset(catalog.load(name), name, arm.preset)
    changes = dict(arm.set) | {"seed": seed} | ({"budget": claim.budget} if claim.budget else {})
    recipe = recipes.change(recipe, changes)
    folder = RunFolder(out / system / claim.name / f"{arm.name}-seed{seed}")
    if folder.recipe.exists() and loop.load_recipe(folder) != recipe:
        raise UserError(f"{folder.path} was run with another recipe; move it away, or give another --out")
    if folder.recipe.exists() and finished(folder):
        return folder
    if folder.plan.exists():
        return runs.resume(folder.path)
    return runs.start(recipe, folder.path)


def finished(folder: RunFolder) -> bool:
    """Whether a run has had its evaluation at its last step."""
    if not folder.plan.exists():
        return False
    steps = read_json(folder.plan)["steps"]
    return any(line["step"] == steps for line in read_lines(folder.evaluations))
