"""Claims as controlled experiments: run the arms under one protocol, read the numbers, judge by the interval."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oculex import catalog, runs
from oculex.claims import ledger
from oculex.claims.verdict import COMPARISONS, MEASURES, Curve, better, reached, verdict
from oculex.contracts import Arm, Claim, Recipe, UserError
from oculex.evaluation import as_json, stream
from oculex.evaluation.statistics import over_seeds
from oculex.training import memory, operations, plan, recipes
from oculex.training.folder import RunFolder, finished, machine, read_lines

Changes = Mapping[str, Any]
"""Recipe fields by dotted name."""

FACTS: dict[str, Callable[[RunFolder], float]] = {
    "train/optimizer_state_bytes": memory.optimizer_state,
    "train/operations_per_sample": operations.per_sample,
    "stream/final_recall": lambda run: stream.final_recall(run.records),
    "stream/backward_transfer": lambda run: stream.backward_transfer(run.records),
}
"""What an arm's metric may name beside evaluations: measured on the finished run itself."""


def judge_claims(
    names: Sequence[str], all_systems: bool, out: Path, budget: str | None = None
) -> list[dict[str, Any]]:
    """Runs the claims of the systems named, or the one named SYSTEM:CLAIM, and enters it in the ledger under ``out``."""
    if all_systems:
        names = [row.name for row in catalog.ROWS if catalog.has_code(row) and catalog.load(row.name).claims]
    found = [each for name in names for each in _named(name)]
    results = []
    for system, claim in found:
        result = judge(system, dataclasses.replace(claim, budget=budget or claim.budget), out)
        ledger.enter(result, out)
        results.append(result)
    return results


def _named(name: str) -> list[tuple[str, Claim]]:
    system, _, only = name.partition(":")
    system = catalog.find(system).name
    written = catalog.load(system).claims
    claims = [claim for claim in written if only in ("", claim.name)]
    if not claims:
        known = ", ".join(claim.name for claim in written) or "none"
        raise UserError(
            f"{system} has no claim {only!r}; known: {known}"
            if only
            else f"no claims are written for {system}"
        )
    return [(system, claim) for claim in claims]


def judge(system: str, claim: Claim, out: Path) -> dict[str, Any]:
    """Runs what is missing of a claim's arms and judges it.

    Every trained arm is first tuned, all by the same search; then effects are compared seed by seed, so what a seed
    makes easy or hard for every arm cancels.
    """
    check(system, claim)
    tried = {arm.name: _tried(system, claim, arm, out) for arm in _trained_arms(claim)}
    tuned = {name: _best(claim, curves) for name, curves in tried.items()}
    curves = {
        arm.name: [_curve(system, claim, arm, _seeded(claim, arm, tuned, seed), out) for seed in claim.seeds]
        for arm in claim.arms
    }
    values = {
        name: [MEASURES[claim.measure](curve, claim) for curve in each] for name, each in curves.items()
    }
    effect = COMPARISONS[claim.compare](values, claim)
    missed = {name: [not reached(curve, claim) for curve in each] for name, each in curves.items()}
    counts = claim.measure == "samples_to"
    both = zip(missed[claim.treatment], missed[claim.control], strict=True) if counts else ()
    return {
        "name": claim.name,
        "system": system,
        "statement": claim.statement,
        "paper": claim.paper,
        "arms": as_json({name: over_seeds(each) for name, each in values.items()}),
        "effect": as_json({"": effect})[""],
        "compare": claim.compare,
        "treatment": claim.treatment,
        "control": claim.control,
        "minus": list(claim.minus),
        "at_least": claim.at_least,
        "verdict": verdict(effect, claim.at_least, silent=sum(map(all, both)) if counts else 0),
        "measure": claim.measure,
        "threshold": claim.threshold,
        "unreached": {name: sum(each) for name, each in missed.items()} if counts else {},
        "metrics": {arm.name: arm.metric for arm in claim.arms},
        "budget": claim.budget,
        "seeds": list(claim.seeds),
        "tuning": _told(claim, tried, tuned),
        "curves": curves,
        "machine": machine(),
    }


def check(system: str, claim: Claim) -> None:
    """ValueError where the arms are not trained for the same budget and evaluated alike.

    An arm pays for that which it starts from; an arm that others start from is not itself compared.
    """
    begun = {arm.starts_from for arm in claim.arms}
    arms = [arm for arm in _trained_arms(claim) if arm.name not in begun]
    terms = {
        arm.name: (_paid(system, claim, arm), _recipe(system, claim, arm, {}).evaluation) for arm in arms
    }
    if len(set(terms.values())) > 1:
        raise ValueError(f"claim {claim.name}: its arms differ in budget or evaluation: {terms}")
    if claim.tuning is not None and claim.tuning.seed in claim.seeds:
        raise ValueError(f"claim {claim.name} is tuned on seed {claim.tuning.seed}, on which it is judged")


# ----------------------------------------------------------------------------------------------- tuning


def _tried(system: str, claim: Claim, arm: Arm, out: Path) -> dict[float, Curve]:
    """The arm's curve for each value of the search."""
    search = claim.tuning
    if search is None:
        return {}
    validation = {"evaluation.on": list(search.on)} if search.on else {}
    return {
        value: _curve(system, claim, arm, {search.field: value, "seed": search.seed} | validation, out)
        for value in search.values
    }


def _best(claim: Claim, curves: Mapping[float, Curve]) -> float | None:
    best = None
    for value, curve in curves.items():
        if best is None or better(curve, curves[best], claim):
            best = value
    return best


def _seeded(claim: Claim, arm: Arm, tuned: Mapping[str, float | None], seed: int) -> dict[str, Any]:
    value = tuned[arm.weights_of or arm.name]
    chosen = {claim.tuning.field: value} if claim.tuning is not None else {}
    return chosen | {"seed": seed}


def _told(
    claim: Claim, tried: Mapping[str, Mapping[float, Curve]], tuned: Mapping[str, float | None]
) -> dict[str, Any]:
    """What was tried for each arm, as (value, the claim's measure, last metric), and what was chosen."""
    if claim.tuning is None:
        return {}
    of = MEASURES[claim.measure]
    return {
        "field": claim.tuning.field,
        "seed": claim.tuning.seed,
        "on": list(claim.tuning.on),
        "tried": {
            name: [(value, of(curve, claim), curve[-1][1]) for value, curve in each.items()]
            for name, each in tried.items()
        },
        "chosen": dict(tuned),
    }


# ------------------------------------------------------------------------------------------------- runs


def _trained_arms(claim: Claim) -> list[Arm]:
    return [arm for arm in claim.arms if not arm.weights_of]


def _paid(system: str, claim: Claim, arm: Arm) -> tuple[tuple[str, float], ...]:
    """(unit, amount) of the budgets of an arm and of all that it starts from."""
    amount, unit = plan.parse_budget(_recipe(system, claim, arm, {}).budget)
    total = {unit: amount}
    if arm.starts_from:
        first = next(each for each in claim.arms if each.name == arm.starts_from)
        for unit, amount in _paid(system, claim, first):
            total[unit] = total.get(unit, 0.0) + amount
    return tuple(sorted(total.items()))


def _recipe(system: str, claim: Claim, arm: Arm, changes: Changes) -> Recipe:
    name = arm.system or system
    recipe = recipes.preset(catalog.load(name), name, arm.preset)
    budget = {"budget": claim.budget} if claim.budget else {}
    return recipes.change(recipe, {**arm.set, **budget, **changes})


def _curve(system: str, claim: Claim, arm: Arm, changes: Changes, out: Path) -> Curve:
    source = next(a for a in claim.arms if a.name == (arm.weights_of or arm.name))
    folder = _trained(system, claim, source, changes, out)
    if arm.metric in FACTS:
        *_, last = read_lines(folder.evaluations)
        return [(last["samples"], FACTS[arm.metric](folder))]
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


def _trained(system: str, claim: Claim, arm: Arm, changes: Changes, out: Path) -> RunFolder:
    """An arm's run, after that of the arm whose weights it begins from."""
    if arm.starts_from:
        first = next(each for each in claim.arms if each.name == arm.starts_from)
        changes = {**changes, "init.run": str(_trained(system, claim, first, changes, out).path)}
    return kept_run(_recipe(system, claim, arm, changes), f"{claim.name}: {arm.name}", out)


def kept_run(recipe: Recipe, about: str, out: Path) -> RunFolder:
    """The run of a recipe, which is its name: finished before, gone on with, or begun. Claims share equal runs."""
    digest = hashlib.sha256(recipes.identity(recipe).encode()).hexdigest()[:12]
    folder = RunFolder(out / "runs" / f"{recipe.system}-{digest}")
    if finished(folder):
        return folder
    print(f"{about}, seed {recipe.seed}, {recipe.budget}: {folder.path}", file=sys.stderr)
    runs.resume(folder.path) if folder.recipe.exists() else runs.start(recipe, folder.path)
    if not finished(folder):  # it was asked to
        raise UserError(f"stopped in {folder.path}; the same command goes on")
    return folder
