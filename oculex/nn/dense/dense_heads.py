"""Light heads for dense tasks on the feature maps of any image tower: pixels to classes, and boxes.

A tower of several resolutions gives its own maps; of a plain transformer's one map a simple pyramid is made (Li et al.,
Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022, section 3). On both stands torchvision's
feature pyramid (Lin et al., Feature Pyramid Networks, CVPR 2017). Segmentation sums its levels (Kirillov et al.,
Panoptic Feature Pyramid Networks, CVPR 2019, section 3). Detection is ATSS (Zhang et al., CVPR 2020): every position has
one square anchor, and says of it which class it has, where its box is and how centred it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork, batched_nms

from oculex.nn.dense.detection import CANDIDATES, OVERLAP, PRIOR, Found, decoded

LEAST = 0.05
"""Probability of a class under which a position has none (ATSS's code, PRE_NMS_THRESH of its configuration)."""
SMALL = 1e-10
"""Added to the variance of a map: little enough that maps of an untrained network are normed too."""
FINEST = 4
"""Least stride of a map that is used; timm's models have finer ones of few channels."""


def maps_of(tower: Any) -> list[int]:
    """Which maps of a tower's pyramid the heads stand on; empty for a tower of one resolution."""
    strides = getattr(tower, "strides", ())
    return [n for n, stride in enumerate(strides) if stride >= FINEST] if len(strides) > 1 else []


class SimplePyramid(nn.Module):
    """Maps of twice, once and half the side of a plain transformer's last map, [B, width, H, W] each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.finer = nn.ConvTranspose2d(width, width, 2, stride=2)

    def forward(self, last: Float[Tensor, "b d h w"]) -> list[Float[Tensor, "b d _ _"]]:
        return [self.finer(last), last, F.max_pool2d(last, 2, ceil_mode=True)]


class Neck(nn.Module):
    """From a tower's maps to levels of one width, finest first.

    Each map is normed over all its values: maps of backbones that were trained in other ways differ in size by orders
    of magnitude, and no head should profit from it. ``plain``: one map comes in, of which three are made.
    """

    def __init__(self, channels: Sequence[int], width: int, plain: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, each, SMALL) for each in channels)
        self.split = SimplePyramid(channels[0]) if plain else None
        self.pyramid = FeaturePyramidNetwork(list(channels) * (3 if plain else 1), width)

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b d _ _"]]:
        normed = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        levels = normed if self.split is None else self.split(normed[0])
        return list(self.pyramid({str(n): x for n, x in enumerate(levels)}).values())


def _block(width: int) -> nn.Sequential:
    """3 x 3 convolution, norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(_groups(width), width), nn.ReLU()
    )


def _groups(width: int) -> int:
    """The most groups up to 32 that divide the width into at least four channels each."""
    return max(n for n in range(1, 33) if width % n == 0 and (n == 1 or width // n >= 4))


class SegmentationHead(nn.Module):
    """Logits of each class at each position of the finest level; class 0 is what belongs to none."""

    def __init__(self, channels: Sequence[int], width: int, classes: int, plain: bool) -> None:
        super().__init__()
        self.neck = Neck(channels, width, plain)
        self.blocks = nn.ModuleList(_block(width) for _ in range(3 if plain else len(channels)))
        self.classes = nn.Conv2d(width, 1 + classes, 1)

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        first, *others = [block(level) for block, level in zip(self.blocks, self.neck(maps), strict=True)]
        for other in others:
            first = first + F.interpolate(other, first.shape[2:], mode="bilinear", align_corners=False)
        return self.classes(first)


class DetectionHead(nn.Module):
    """What each position of all levels says: a logit for each class, its box, how centred it is.

    ``Found.words`` are logits of the classes here. Both towers and the scales are shared between levels but for one
    scale of the boxes each.
    """

    def __init__(
        self, channels: Sequence[int], width: int, classes: int, plain: bool, depth: int = 2
    ) -> None:
        super().__init__()
        self.neck = Neck(channels, width, plain)
        self.what = nn.Sequential(*(_block(width) for _ in range(depth)))
        self.where = nn.Sequential(*(_block(width) for _ in range(depth)))
        self.classes = nn.Conv2d(width, classes, 3, padding=1)
        self.box, self.centred = nn.Conv2d(width, 4, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(3 if plain else len(channels)))
        for conv in (self.classes, self.box, self.centred):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classes.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Found:
        levels = self.neck(maps)
        where = [self.where(level) for level in levels]
        boxes = [scale * self.box(each) for scale, each in zip(self.scales, where, strict=True)]
        return Found(
            _rows([self.classes(self.what(level)) for level in levels]),
            _rows(boxes),
            _rows([self.centred(each) for each in where])[..., 0],
        )


def _rows(levels: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "b a c"]:
    """All levels' positions, row by row, the finest level's first."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def level_grids(maps: Sequence[Tensor], plain: bool) -> list[tuple[int, int]]:
    """Rows and columns of the heads' levels on these maps."""
    grids = [(int(each.shape[-2]), int(each.shape[-1])) for each in maps]
    if not plain:
        return grids
    ((rows, columns),) = grids
    return [(2 * rows, 2 * columns), (rows, columns), (-(-rows // 2), -(-columns // 2))]


def square_anchors(grids: Sequence[tuple[int, int]], size: int, scale: float) -> list[Float[Tensor, "_ 4"]]:
    """Of each level the squares x0 y0 x1 y1, ``scale`` positions wide, about the middles of its positions, in pixels of
    an image of ``size``."""
    found = []
    for rows, columns in grids:
        y, x = torch.meshgrid(
            (torch.arange(rows, device="cpu") + 0.5) * size / rows,
            (torch.arange(columns, device="cpu") + 0.5) * size / columns,
            indexing="ij",
        )
        middle, half = torch.stack([x, y], dim=-1).view(-1, 2), scale * size / max(rows, columns) / 2
        found.append(torch.cat([middle - half, middle + half], dim=1))
    return found


def best_objects(
    found: Found, squares: Float[Tensor, "a 4"], extent: Float[Tensor, "b 2"], most: int
) -> Float[Tensor, "b k 6"]:
    """The ``most`` likeliest objects of each image: class, score, and x0 y0 x1 y1 in shares of the picture; NaN where
    there are fewer.

    A score is the root of the probability of the class, of which ``LEAST`` is needed, times how centred the position is.
    ``extent`` is the picture's width and height in pixels of the view. Of boxes of one class that overlap much the best
    is kept.
    """
    likely = found.words.float().sigmoid()
    scores = (likely * found.centred.float().sigmoid()[..., None]).sqrt()
    scores = scores.where(likely > LEAST, 0.0)
    boxes, limits = decoded(found.deltas.float(), squares), extent.repeat(1, 2)
    out = torch.full((len(scores), most, 6), torch.nan, device=scores.device)
    for own, score, box, limit in zip(out, scores, boxes, limits, strict=True):
        top, place = score.flatten().topk(min(CANDIDATES, score.numel()))
        label, inside = (
            place % score.shape[1],
            torch.minimum(box.clamp(min=0), limit)[place // score.shape[1]],
        )
        inside, top, label = (each[top > 0] for each in (inside, top, label))
        kept = batched_nms(inside, top, label, OVERLAP)[:most]
        own[: len(kept)] = torch.cat([label[kept, None], top[kept, None], inside[kept] / limit], dim=1)
    return out
