"""What a recipe's updates compute: an exact count, which no machine or load changes."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from oculex.contracts import Features, UserError
from oculex.training import plan, reopen
from oculex.training.folder import RunFolder


def per_sample(run: RunFolder) -> float:
    """Floating-point operations in the matrix products of a finished run's first update, forward and backward, over its
    samples (two for a multiplication and an addition).

    Attention is counted as the products that it consists of, whatever kernel computes it. Raises UserError where the
    batch cannot be read.
    """
    recipe, system = reopen.load_recipe(run), reopen.load(run)
    pool = plan.open_pool(recipe.stages[0].sources or recipe.data.sources, recipe.data.holdout)
    loaded = pool.steps(system.view, recipe, 0, 1)[0]
    if isinstance(loaded, UserError):
        raise loaded
    system.train()  # type: ignore[attr-defined]
    torch.manual_seed(recipe.seed)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        features = system.encode(loaded.batch)
        losses = system.losses(Features(features), loaded.batch)
        sum((value.mean() for value in losses.values()), torch.zeros(())).backward()
    return counter.get_total_flops() / recipe.batch
