"""Activation checkpointing: memory for time."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from oculex.nn.blocks import Block


def checkpoint_activations(system: nn.Module) -> None:
    """Blocks and transformers' layers keep their inputs alone and are computed again in the backward pass, with the same
    randomness."""
    for module in system.modules():
        if getattr(module, "supports_gradient_checkpointing", False):
            module.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        if isinstance(module, Block):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
