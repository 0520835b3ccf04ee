"""A step that stopped a run, done again: the same batch, randomness and weights, and no update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from oculex.contracts import UserError
from oculex.training import checkpoint, crash, foundations, loop, plan, ranks, recipes, reopen


def repeat(file: Path, changes: Mapping[str, Any] | Sequence[str] = ()) -> dict[str, Any]:
    """{step, ids, values, norms, samples, weights, gradients} of a crash.json's step; the last three are not finite.

    On as many ranks as the run had, the step is repeated to the bit, on another number to rounding. ``changes`` of
    the recipe tell whether another precision or another weight of a loss would have mended it.
    """
    folder, facts, weights = crash.read(file)
    recipe = recipes.change(reopen.load_recipe(folder), changes)
    fabric = ranks.launch(recipe)
    recipe = replace(recipe, accumulate=max(1, facts["micro_batches"] // fabric.world_size))
    training = loop.Training(
        recipe, folder, fabric, plan.open_pools(recipe), foundations.foundation, quiet=True
    )
    checkpoint.load_weights(training.system, weights, file)
    decided = plan.read(folder)
    plan.check_data(decided, training.pools)
    training.steps, training.step = decided["steps"], facts["step"]
    span = next(span for span in training.spans() if span.start <= training.step < span.stop)
    model, optimizer = training.wrap(span.stage)
    watched = crash.Watched(training.trained, recipe.accumulate)
    loaded = training.batches(span.number)[training.step]
    if isinstance(loaded, UserError):
        raise loaded
    values, _ = training.gradients(model, optimizer, loaded)
    found = crash.examine(training.trained, loaded.batch, loaded.ids, watched.features(), watched.terms())
    every = ranks.everyone((loaded.ids, found["samples"]))
    return found | {
        "step": training.step,
        "values": values,
        "ids": [name for ids, _ in every for name in ids],
        "samples": {name: why for _, samples in every for name, why in samples.items()},
    }
