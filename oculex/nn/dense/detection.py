"""GLIP's grounding head: a feature pyramid, a dynamic head, and boxes whose class is how well they fit each word.

FIBER's second stage (Dou et al. 2022, section 3.2) puts it on the maps of its image tower. The pyramid is
torchvision's (Lin et al. 2017, with RetinaNet's two coarser levels), the tower is DyHead's (Dai et al. 2021, section
3), the words are met by dot products (Li et al. 2022, GLIP, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d, FeaturePyramidNetwork, nms
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

LEVELS = 5
PRIOR = 0.01
"""Share of positions that a head without training takes for a match (focal loss, Lin et al. 2017, section 4.1)."""
CLAMP = 50_000.0


@dataclass(frozen=True)
class Found:
    """What the head says of each of A positions, those of the finest level first."""

    words: Float[Tensor, "b a t"]
    """Logits of each token being about the position's box."""
    deltas: Float[Tensor, "b a 4"]
    """The box relative to the position's anchor, as ``decoded`` reads it."""
    centred: Float[Tensor, "b a"]
    """Logits of how near the middle of its box the position is."""


def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3) / 6


class DynamicReLU(nn.Module):
    """max(a1 x + b1, a2 x + b2) per channel, with coefficients from the mean over positions (Chen et al. 2020, section
    3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, width // 4), nn.Linear(width // 4, 4 * width)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        around = hard_sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3)))))) - 0.5
        a1, b1, a2, b2 = around[..., None, None].chunk(4, dim=1)
        return torch.maximum(x * (2 * a1 + 1) + b1, x * (2 * a2) + b2)


class DynamicBlock(nn.Module):
    """A block of the dynamic head: each level takes in its neighbours by deformable convolutions, weighted by an
    attention over levels and passed through a dynamic ReLU.

    The coarser neighbour is convolved at its own size with the offsets of the finer level. The authors' kernel reads
    these as if they had been computed at that size, from the start of their memory (it does not check shapes);
    published weights were trained so, and it is repeated here.
    """

    def __init__(self, width: int, groups: int, deformable: bool = True) -> None:
        super().__init__()
        kind: Any = DeformConv2d if deformable else nn.Conv2d
        self.offset = nn.Conv2d(width, 27, 3, padding=1) if deformable else None
        self.coarser, self.own, self.finer = (
            kind(width, width, 3, stride=stride, padding=1) for stride in (1, 1, 2)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in range(3))
        self.attention = nn.Conv2d(width, 1, 1)
        self.relu = DynamicReLU(width)
        for conv in (self.coarser, self.own, self.finer):
            if not deformable:
                nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.attention.weight, std=0.01)
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Float[Tensor, "b d _ _"]]) -> list[Float[Tensor, "b d _ _"]]:
        norm_coarser, norm_own, norm_finer = self.norms
        out = []
        for level, x in enumerate(maps):
            where = self._where(x)
            seen = [norm_own(self.own(x, *where))]
            if level > 0:
                seen.append(norm_finer(self.finer(maps[level - 1], *where)))
            if level + 1 < len(maps):
                above = maps[level + 1]
                high = norm_coarser(self.coarser(above, *(_reread(part, above) for part in where)))
                seen.append(F.interpolate(high, x.shape[2:], mode="bilinear", align_corners=True))
            weighted = [
                hard_sigmoid(F.relu(self.attention(each.mean((2, 3), keepdim=True)))) * each for each in seen
            ]
            out.append(self.relu(torch.stack(weighted).mean(0)))
        return out

    def _where(self, x: Tensor) -> tuple[Tensor, ...]:
        """Offsets and weights of the nine points that a convolution looks at; nothing where they stand still."""
        if self.offset is None:
            return ()
        found = self.offset(x)
        return found[:, :18], found[:, 18:].sigmoid()


def _reread(values: Tensor, like: Tensor) -> Tensor:
    """The start of each sample's memory as a map of another size."""
    b, c, (h, w) = values.shape[0], values.shape[1], like.shape[2:]
    return values.flatten(1)[:, : c * h * w].view(b, c, h, w)


class GroundingHead(nn.Module):
    """From the image tower's last three maps and the text's tokens to boxes and how they fit the tokens.

    ``channels`` are the maps', ``memory`` the width of the tokens, ``log_scale`` the log of what dot products are divided
    by at the start. Every position has one anchor, a square (``anchors``).
    """

    def __init__(
        self,
        channels: Sequence[int],
        memory: int,
        width: int = 256,
        blocks: int = 6,
        groups: int = 16,
        deformable: bool = True,
        log_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(each) for each in channels)
        self.pyramid = FeaturePyramidNetwork(list(channels), width, LastLevelP6P7(width, width))
        self.blocks = nn.ModuleList(DynamicBlock(width, groups, deformable) for _ in range(blocks))
        self.box, self.centred = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 1, 1)
        for conv in (self.box, self.centred):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.scales = nn.Parameter(torch.ones(LEVELS))
        self.project = nn.Linear(memory, width)
        self.word_bias = nn.Parameter(torch.zeros(memory))
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.bias = nn.Parameter(torch.tensor(math.log(PRIOR / (1 - PRIOR))))

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]], text: Float[Tensor, "b t e"]) -> Found:
        """``maps`` [B, H, W, C], finest first."""
        normed = [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True)]
        levels = list(self.pyramid({str(n): x for n, x in enumerate(normed)}).values())
        for block in self.blocks:
            levels = block(levels)
        words = F.normalize(text, dim=-1)
        tokens = self.project(words / 2)
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        logits = x @ tokens.transpose(1, 2) / self.log_scale.exp()
        logits = logits + (words @ self.word_bias + self.bias)[:, None]
        boxes = [scale * self.box(level) for scale, level in zip(self.scales, levels, strict=True)]
        return Found(
            logits.clamp(-CLAMP, CLAMP),
            torch.cat([each.flatten(2) for each in boxes], dim=2).transpose(1, 2),
            torch.cat([self.centred(level).flatten(1) for level in levels], dim=1),
        )


# ------------------------------------------------------------------------------------------------ geometry


def level_sides(size: int, stride: int) -> list[int]:
    """Positions a side of each level, for a square image of ``size`` pixels and the finest level's ``stride``."""
    sides = [size // stride, size // stride // 2, size // stride // 4]
    while len(sides) < LEVELS:
        sides.append((sides[-1] + 1) // 2)
    return sides


def anchors(size: int, stride: int, scale: float) -> list[Float[Tensor, "_ 4"]]:
    """Each level's squares x0 y0 x1 y1, ``scale`` strides wide, about the middles of its positions."""
    found = []
    for level, side in enumerate(level_sides(size, stride)):
        step = stride * 2**level
        middle = (torch.arange(side) + 0.5) * step
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        centre, half = torch.stack([x, y], dim=-1).view(-1, 2), scale * step / 2
        found.append(torch.cat([centre - half, centre + half], dim=1))
    return found


WEIGHTS = (10.0, 5.0)
"""Of the deltas of a box's middle and of its size."""
MOST = math.log(1000 / 16)


def decoded(deltas: Float[Tensor, "*n 4"], squares: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n 4"]:
    """Boxes x0 y0 x1 y1 of the deltas (R-CNN's parametrisation, Girshick et al. 2014, appendix C)."""
    middle, size = (squares[..., :2] + squares[..., 2:]) / 2, squares[..., 2:] - squares[..., :2]
    middle = middle + deltas[..., :2] / WEIGHTS[0] * size
    half = size * (deltas[..., 2:] / WEIGHTS[1]).clamp(max=MOST).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


# --------------------------------------------------------------------------------------------- what is found

CANDIDATES = 1000
"""Positions of which a phrase's boxes are chosen."""
OVERLAP = 0.6
"""Boxes of one phrase that overlap more are one."""


def best_boxes(
    found: Found,
    squares: Float[Tensor, "a 4"],
    about: Bool[Tensor, "b p t"],
    extent: Float[Tensor, "b 2"],
    most: int,
) -> Float[Tensor, "b p k 5"]:
    """Of each phrase the ``most`` best boxes x0 y0 x1 y1 in shares of the picture, and their scores; NaN where there
    are fewer.

    A position's score for a phrase is the root of the mean probability of the phrase's tokens times how centred it
    is, as the authors' ATSSPostProcessor takes it. ``extent`` is the picture's width and height in pixels of the
    view. A phrase without a token has no box.
    """
    b, p, _ = about.shape
    out = torch.full((b, p, most, 5), torch.nan, device=extent.device)
    tokens = about.float()
    shares = tokens / tokens.sum(-1, keepdim=True).clamp(min=1)
    scores = found.words.float().sigmoid() @ shares.transpose(1, 2)
    scores = (scores * found.centred.float().sigmoid()[..., None]).sqrt()
    limits = extent.repeat(1, 2)
    each = zip(decoded(found.deltas.float(), squares), scores, limits, about.any(-1), strict=True)
    for n, (boxes, score, limit, named) in enumerate(each):
        inside = torch.minimum(boxes.clamp(min=0), limit)
        top, place = score.topk(min(CANDIDATES, len(score)), dim=0)
        for phrase in named.nonzero()[:, 0].tolist():
            some, rated = inside[place[:, phrase]], top[:, phrase]
            kept = nms(some, rated, OVERLAP)[:most]
            out[n, phrase, : len(kept)] = torch.cat([some[kept] / limit, rated[kept, None]], dim=1)
    return out
