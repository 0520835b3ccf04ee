"""Attention through time, between the blocks of a vision transformer: how an image tower sees a video."""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from oculex.nn.blocks import Block
from oculex.nn.image.vit import VisionTransformer


class TemporalBlock(nn.Module):
    """Positions in time are added, each token attends to those at its place in all frames, then ``space``, the block of
    the image tower, takes each frame alone.

    LanguageBind (Zhu et al. 2024), section 3.2 and its code: x + p_t, x + attention(norm x) over frames, no second
    feed-forward network. Norm and attention start as copies of the image block's own.
    """

    def __init__(self, space: Block, frames: int) -> None:
        super().__init__()
        self.space, self.frames = space, frames
        self.norm, self.time_attention = deepcopy(space.norm_1), deepcopy(space.attention)
        width = space.norm_1.normalized_shape[0]
        self.times = nn.Parameter(width**-0.5 * torch.randn(frames, width))

    def forward(
        self, x: Float[Tensor, "bt n d"], at: Int[Tensor, "bt"] | None = None
    ) -> Float[Tensor, "bt *o d"]:
        """Frames of a video stand one after the other, [B * T, N, D]."""
        places = x.unflatten(0, (-1, self.frames)).transpose(1, 2).flatten(0, 1) + self.times
        places = places + self.time_attention(self.norm(places))
        return self.space(places.unflatten(0, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1), at=at)


def through_time(tower: VisionTransformer, frames: int) -> None:
    """Makes an image tower one of videos of that many frames, in place."""
    tower.blocks = nn.ModuleList(TemporalBlock(block, frames) for block in tower.blocks)  # type: ignore[arg-type]
