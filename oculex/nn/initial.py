"""Initial weights as the papers draw them; for ``module.apply``."""

from __future__ import annotations

from torch import nn


def truncated(module: nn.Module) -> None:
    """Linear weights from a normal of deviation 0.02 cut at 2, biases 0 (DeiT, DINO, GMML)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def xavier(module: nn.Module) -> None:
    """Linear weights uniform by fan-in and fan-out, biases 0 (MAE)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
