"""What a run will do, decided before its first update: sources, their held-out parts, steps, stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from oculex.contracts import BadSample, Recipe, Source, Stage, UserError
from oculex.data.loader import Steps
from oculex.data.order import Order, mix
from oculex.data.sources import open_source
from oculex.data.split import Subset, split
from oculex.data.views import captions
from oculex.training import recipes
from oculex.training.folder import RunFolder, read_json, write_json

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_REPLAY = 0x4E9


@dataclass(frozen=True)
class Span:
    """A stage's stretch of the run: steps start..stop."""

    stage: Stage
    start: int
    stop: int
    number: int
    """Of the stage, from 0."""


def parse_budget(budget: str) -> tuple[float, str]:
    """(amount, "seconds" | "steps" | "samples"). Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*(s|m|h|steps|samples)", budget.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UserError(
            f"budget {budget!r} is not understood; write minutes (3m), seconds, hours, 2000steps or 1e6samples"
        )
    unit = match[2]
    return (float(match[1]) * _SECONDS[unit], "seconds") if unit in _SECONDS else (float(match[1]), unit)


def steps_for(recipe: Recipe, seconds_per_step: float | None = None) -> int:
    """Updates that the budget pays for; a budget of time needs the measured seconds of a step."""
    amount, unit = parse_budget(recipe.budget)
    if unit == "seconds":
        if seconds_per_step is None:
            raise ValueError("a budget of time needs a measured step")
        return max(1, int(amount / seconds_per_step))
    return max(1, int(amount if unit == "steps" else amount // recipe.batch))


def spans(stages: Sequence[Stage], steps: int) -> list[Span]:
    """Stages laid end to end over ``steps``."""
    edges = list(accumulate((stage.share for stage in stages), initial=0.0))
    at = [round(edge * steps / edges[-1]) for edge in edges]
    return [Span(stage, a, b, n) for n, (stage, a, b) in enumerate(zip(stages, at, at[1:], strict=False))]


def stages(recipe: Recipe, pools: Pools) -> list[Stage]:
    """The recipe's stages; of a stream once for each source, whose share of the budget is that of its samples."""
    if not recipe.data.stream:
        return list(recipe.stages)
    lengths = [sum(map(len, pools[(spec,)].train)) for spec in recipe.data.sources]
    return [
        replace(stage, name=f"{stage.name} {spec}", sources=(spec,), share=stage.share * length)
        for spec, length in zip(recipe.data.sources, lengths, strict=True)
        for stage in recipe.stages
    ]


def parse_weight(spec: str) -> tuple[str, float | None]:
    """ "photos@2" -> ("photos", 2.0); without a weight ("photos", None)."""
    match = re.fullmatch(r"(.+)@([0-9.]+)", spec)
    return (match[1], float(match[2])) if match else (spec, None)


@dataclass(frozen=True)
class Pool:
    """Opened sources of a stage: what is trained on, what is held out, and the mixture weights."""

    train: tuple[Source, ...]
    held_out: tuple[Source, ...]
    weights: tuple[float, ...] | None

    def fingerprints(self) -> dict[str, str]:
        return {source.name: source.fingerprint() for source in self.train}

    def steps(self, view: Any, recipe: Recipe, rank: int, ranks: int) -> Steps:
        order = Order([len(source) for source in self.train], self.weights, recipe.seed)
        return Steps(self.train, order, view, recipe.batch, recipe.seed, rank, ranks)

    def classes(self) -> tuple[str, ...]:
        """Class names in label order, of the sources that have any; empty where none has, or they name different ones."""
        named = {source.classes for source in self.train if source.classes}
        return named.pop() if len(named) == 1 else ()

    def first_view(self, view: Any) -> None:
        """One view of each source, where it has a sample that can be read."""
        for source in self.train:
            for index in range(len(source)):
                try:
                    view(source[index], None)
                    break
                except BadSample:
                    continue  # counted and named when it is trained on

    def texts(self) -> Any:
        """All training captions, for a tokenizer learnt from them."""
        for source in self.train:
            yield from source_texts(source)


Pools = dict[tuple[str, ...], Pool]
"""The data of a run by its specifications: the recipe's, and those of stages that have their own."""


def source_texts(source: Source) -> Any:
    """The captions of a source, and what robots are told."""
    for index in range(len(source)):
        try:
            sample = source[index]
        except BadSample:
            continue  # counted and named when it is trained on
        yield from captions(sample)
        if "instruction" in sample:
            yield sample["instruction"]


def open_pool(specs: Sequence[str], holdout: float) -> Pool:
    """Opens sources and splits each. Weights: none, or one for every source."""
    pairs = [parse_weight(spec) for spec in specs]
    weights = [weight for _, weight in pairs if weight is not None]
    if weights and len(weights) != len(pairs):
        raise UserError("give a weight (PATH@WEIGHT) to every source or to none")
    parts = [split(open_source(path), holdout) for path, _ in pairs]
    return Pool(
        tuple(train for train, _ in parts),
        tuple(held for _, held in parts if held is not None),
        tuple(weights) or None,
    )


def open_pools(recipe: Recipe) -> Pools:
    """All that the run will train on, so that a mistake in a late stage is found before the first."""
    sources = recipe.data.sources
    specs = [sources, *(stage.sources for stage in recipe.stages if stage.sources)]
    if recipe.data.stream:
        if len(set(sources)) < len(sources) or any(stage.sources for stage in recipe.stages):
            raise UserError(
                "data.stream goes through data.sources, each of them once; name none twice, and none in stages"
            )
        specs += [(spec,) for spec in sources]
    return {each: open_pool(each, recipe.data.holdout) for each in dict.fromkeys(specs)}


def stage_pool(recipe: Recipe, pools: Pools, number: int) -> Pool:
    """What a stage is trained on: its sources, and what it replays of earlier stages'.

    As from a reservoir (Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning, algorithm 2), each sample
    of earlier stages is kept with the same probability; what a later stage keeps of a source was kept before.
    """
    laid = stages(recipe, pools)
    stage = laid[number]
    pool = pools[stage.sources or recipe.data.sources]
    if not stage.replay:
        return pool
    before = dict.fromkeys(each.sources for each in laid[:number] if each.sources not in ((), stage.sources))
    earlier = [source for sources in before for source in pools[sources].train]
    if pool.weights is not None:
        raise UserError(
            f"stage {stage.name!r} replays earlier samples; leave the weights (@W) of its sources out"
        )
    seen = sum(map(len, earlier))
    kept = [round(len(source) * min(1.0, stage.replay / seen)) for source in earlier]
    key = mix(recipe.seed, _REPLAY)
    replayed = (Subset(source, 0, count, key) for source, count in zip(earlier, kept, strict=True) if count)
    return Pool((*pool.train, *replayed), pool.held_out, None)


# ----------------------------------------------------------------------------------------- what was decided

HOW = (
    "preset", "strategy", "accumulate", "compile", "activation_checkpointing", "data.workers", "data.bad_limit",
    "checkpoint", "evaluation", "logging", "optimizer.spike",
)  # fmt: skip
"""Fields that a run may be resumed with other values of: they say how it is computed, kept and watched, not what."""


def decide(
    folder: RunFolder, recipe: Recipe, pools: Pools, seconds_per_step: float | None = None
) -> dict[str, Any]:
    """Writes plan.json: steps, the recipe they were decided for, and what data it was."""
    decided = {
        "steps": steps_for(recipe, seconds_per_step),
        "skips": [],
        "data": _fingerprints(pools),
        "recipe": recipes.to_tree(recipe),
    }
    write_json(folder.plan, decided)
    return decided


def read(folder: RunFolder) -> dict[str, Any]:
    return read_json(folder.plan)


def skip(folder: RunFolder, step: int) -> None:
    """Leaves a step's batch out of the run from now on."""
    decided = read(folder)
    write_json(folder.plan, decided | {"skips": sorted({*decided.get("skips", ()), step})})


def check_recipe(decided: Mapping[str, Any], recipe: Recipe, folder: RunFolder) -> None:
    """Raises UserError that names the fields of recipe.json by which the run would become another one."""
    before = _flat(decided.get("recipe", {}))
    now = _flat(recipes.to_tree(recipe))
    changed = [
        f"{name}={now.get(name)} (was {value})"
        for name, value in before.items()
        if now.get(name) != value and not name.startswith(HOW)
    ]
    if changed:
        raise UserError(
            f"{folder.recipe} was changed since the run began: {', '.join(changed)}; put it back, or start a new run "
            f"with `oculex train {recipe.system} --set ...`"
        )


def check_data(decided: Mapping[str, Any], pools: Pools) -> None:
    """Raises UserError that names the sources that are not what they were."""
    now, before = _fingerprints(pools), decided["data"]
    changed = [name for name, digest in now.items() if before.get(name) != digest]
    changed += [name for name in before if name not in now]
    if changed:
        raise UserError(
            f"the data changed since this run began ({', '.join(changed)}); restore it, or start a new run"
        )


def _fingerprints(pools: Pools) -> dict[str, str]:
    return {name: digest for pool in pools.values() for name, digest in pool.fingerprints().items()}


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Leaves by dotted name."""
    if not isinstance(tree, (dict, list)) or not tree:
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        leaf: value
        for key, entry in items
        for leaf, value in _flat(entry, f"{name}.{key}" if name else str(key)).items()
    }
