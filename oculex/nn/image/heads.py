"""Projection heads that objectives look through and that are thrown away after training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.initial import INITIAL


class PrototypeHead(nn.Module):
    """DINO's head (Caron et al. 2021, appendix C): an MLP to a unit-norm bottleneck, compared with ``prototypes``.

    The prototypes are weight-normalised, their length learnt or, with ``unit``, kept at 1, which trains more
    stably. The output of ``prototypes`` cosines times lengths has no bias.
    """

    length: Tensor | None

    def __init__(
        self,
        width: int,
        prototypes: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        *,
        unit: bool,
        initial: str = "truncated",
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.mlp.apply(INITIAL[initial])
        self.prototypes = nn.Parameter(nn.Linear(bottleneck, prototypes, bias=False).weight.detach())
        self.length = None if unit else nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        directions = F.normalize(self.prototypes, dim=1)
        weight = directions if self.length is None else directions * self.length
        return F.linear(F.normalize(self.mlp(x), dim=-1), weight)
