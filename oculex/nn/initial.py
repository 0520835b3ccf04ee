"""Initial weights as the papers draw them; for ``module.apply``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


def scaled(module: nn.Module) -> None:
    """Linear weights from a normal of deviation fan-in ** -0.5 cut at 2 of them, biases 0: for networks so narrow that
    what goes through some layers of deviation 0.02 all but vanishes, and its gradients too."""
    if isinstance(module, nn.Linear):
        std = module.in_features**-0.5
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


INITIAL: Mapping[str, Callable[[nn.Module], None]] = {
    "truncated": truncated,
    "xavier": xavier,
    "scaled": scaled,
}
