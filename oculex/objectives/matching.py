"""Telling pairs that belong together from pairs that look as if they did."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

NEVER = 1e-9
"""Added to every probability, also the right one's, as in ALBEF's code: a row without any other still has one to draw."""


def hard_negatives(
    rows: Float[Tensor, "b d"],
    columns: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    truth: Int[Tensor, "b"],
    draws: Float[Tensor, "b"],
) -> Int[Tensor, "b"]:
    """For each row another column than its ``truth``, drawn with the softmax of its scaled similarities (ALBEF, Li et al.
    2021, section 3.2).

    ``draws`` in [0, 1) are each row's random number: they belong to the samples, so that what is drawn depends neither
    on ranks nor on micro-batches. Gathers: columns. Has no gradient.
    """
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        chances = (scale.float() * rows.float() @ columns.float().T).softmax(dim=1)
        chances = chances.scatter(1, truth[:, None], 0.0) + NEVER
        reached = chances.double().cumsum(dim=1)
        drawn = torch.searchsorted(reached, (draws.double() * reached[:, -1])[:, None], right=True)
        return drawn[:, 0].clamp(max=columns.shape[0] - 1)


def matching(
    true: Float[Tensor, "b 2"], other_text: Float[Tensor, "b 2"], other_image: Float[Tensor, "b 2"]
) -> Float[Tensor, "b"]:
    """Cross-entropy of "belongs together" (class 1) for each own pair and "does not" for its image with another text and
    its text with another image: their mean (ALBEF, equation 4). Reduces: the mean over all rows is the published loss.
    Gathers nothing.
    """
    logits = torch.stack([true, other_text, other_image], dim=1).float()
    labels = torch.tensor([1, 0, 0], device=logits.device).expand(logits.shape[0], 3)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(-1, 3).mean(dim=1)
