"""Runs opened again: the recipe, and the system as training left it or began it."""

from __future__ import annotations

from typing import Any

import torch

from oculex import catalog
from oculex.contracts import Recipe, System, UserError
from oculex.data.assets import RunAssets
from oculex.data.order import mix
from oculex.training import checkpoint, recipes
from oculex.training.folder import RunFolder, read_json

BEGINNING = 0x1417
"""With a run's seed, what its first weights are drawn from."""


def load_recipe(folder: RunFolder) -> Recipe:
    tree = read_json(folder.recipe)
    return recipes.from_tree(tree, catalog.load(tree.get("system", "")).config)


def load(folder: RunFolder) -> System:
    """The system of a run with the weights of its last checkpoint (the averaged ones where it has them)."""
    recipe = load_recipe(folder)
    saved = checkpoint.latest(folder)
    if saved is None:
        raise UserError(f"{folder.path} has no whole checkpoint; `oculex resume {folder.path}` trains it")
    system: Any = catalog.load(recipe.system).system.build(recipe.model, RunAssets(folder.assets, None))
    name = "average" if (saved / "average.safetensors").exists() else "weights"
    checkpoint.load_weights(system, checkpoint.tensors(saved, name), saved)
    return system


def fresh(recipe: Recipe, folder: RunFolder) -> System:
    """The system of a run as its training began it, before any weights that ``recipe.init`` names; torch's generator is
    left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(recipe.seed, BEGINNING))
        return catalog.load(recipe.system).system.build(recipe.model, RunAssets(folder.assets, None))
