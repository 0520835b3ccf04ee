"""What boxes and words are compared with: which positions answer for which box, and three losses over them.

As GLIP and FIBER take ATSS (Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection, CVPR 2020).
Boxes are x0 y0 x1 y1 in pixels, ends exclusive. Where the authors measure a box from its first to its last pixel, so do
these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

NEAREST = 9
"""Positions of each level that are candidates for a box."""
ALPHA, GAMMA = 0.25, 2.0
INSIDE = 0.01
"""Pixels that a position must lie inside of its box."""


def assigned(boxes: Float[Tensor, "n 4"], anchors: Sequence[Float[Tensor, "_ 4"]]) -> Int[Tensor, "a"]:
    """For each anchor of all levels the box that it answers for, -1 where there is none (ATSS, section 3.2).

    A box's candidates are the nearest anchors of each level; those count whose overlap is at least the candidates' mean
    plus their standard deviation, and whose middle lies in the box. An anchor that is left with several takes the one it
    overlaps most.
    """
    every = torch.cat(list(anchors))
    if not len(boxes):
        return torch.full((len(every),), -1)
    overlap = box_iou(every, boxes)
    middle, centres = (every[:, :2] + every[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = torch.cdist(middle, centres)
    candidates, start = [], 0
    for level in anchors:
        near = distance[start : start + len(level)].topk(min(NEAREST, len(level)), dim=0, largest=False)
        candidates.append(near.indices + start)
        start += len(level)
    which = torch.cat(candidates)
    own = overlap.gather(0, which)
    enough = own >= own.mean(0) + own.std(0)
    last = boxes - boxes.new_tensor([0, 0, 1, 1])
    at = middle[which] - 0.5
    sides = torch.cat([at - last[:, :2], last[:, 2:] - at], dim=-1)
    enough &= sides.min(-1).values > INSIDE
    kept = torch.full_like(overlap, -1.0).scatter(0, which, torch.where(enough, own, -1.0))
    best, box = kept.max(1)
    return box.masked_fill(best < 0, -1)


def centredness(boxes: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    """How near the middle of its box each anchor's middle is: 1 there, 0 at the border (FCOS, Tian et al. 2019, equation
    3)."""
    at = (anchors[:, :2] + anchors[:, 2:]) / 2 - 0.5
    before, after = at - boxes[:, :2], boxes[:, 2:] - 1 - at
    return (torch.minimum(before, after) / torch.maximum(before, after)).clamp(min=0).prod(1).sqrt()


def word_loss(
    logits: Float[Tensor, "b a t"], targets: Bool[Tensor, "b a t"], seen: Bool[Tensor, "b t"]
) -> Float[Tensor, "b"]:
    """Sums over positions and real tokens of the focal loss (Lin et al. 2017, equation 5). Reduces: over the number of
    positions that answer for a box, in the global batch. Gathers nothing."""
    loss = sigmoid_focal_loss(logits.float(), targets.float(), ALPHA, GAMMA, reduction="none")
    return (loss * seen[:, None]).sum((1, 2))


def box_loss(
    found: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"], weights: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """1 - generalised IoU (Rezatofighi et al. 2019), weighted. Reduces: over the sum of the weights in the global batch.
    Gathers nothing."""
    last = boxes.new_tensor([0, 0, 1, 1])
    found = torch.cat([found[:, :2], torch.maximum(found[:, :2], found[:, 2:] - 1)], dim=1)
    return weights * generalized_box_iou_loss(found, boxes - last)


def centred_loss(logits: Float[Tensor, "n"], targets: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Cross-entropy of how centred a position is. Reduces as ``word_loss``. Gathers nothing."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
