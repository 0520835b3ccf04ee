"""An encoder of one modality into a space that a dual encoder made: its image tower, tuned at low rank."""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.image.temporal import through_time
from oculex.nn.image.vit import VisionTransformer
from oculex.nn.lora import adapt


class ModalityEncoder(nn.Module):
    """A copy of an image tower and its projection, with a temperature of its own.

    With ``frames`` it attends through time, and only that attention gets low-rank parts; else that of every block. A
    video's embedding is the mean over its frames of what the norm after the last block gives.
    """

    def __init__(
        self,
        tower: VisionTransformer,
        projection: nn.Linear,
        log_scale: float,
        rank: int,
        alpha: float,
        frames: int = 0,
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tower, self.projection = deepcopy(tower), deepcopy(projection)
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.tower.patch_dropout = patch_dropout
        if frames:
            through_time(self.tower, frames)
        adapt(self.tower, rank, alpha, "time_attention" if frames else "attention")

    def forward(self, pixels: Float[Tensor, "b *t c h w"]) -> Float[Tensor, "b d"]:
        """Unit norm. Patch dropout leaves the same patches in all frames of a video."""
        video = pixels.ndim == 5
        keep = self.tower.kept(pixels[:, 0] if video else pixels)
        if not video:
            pooled = self.tower(pixels, keep)
        else:
            keep = keep if keep is None else keep.repeat_interleave(pixels.shape[1], dim=0)
            pooled = self.tower(pixels.flatten(0, 1), keep).unflatten(0, (-1, pixels.shape[1])).mean(1)
        return F.normalize(self.projection(pooled).float(), dim=-1)
