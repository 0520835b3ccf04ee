"""Where the middles of objects are, as maps of heat (Zhou et al., Objects as Points, 2019, after CornerNet)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ALPHA, BETA = 2.0, 4.0
"""How much less what is nearly right counts, and what is near a middle."""
OVERLAP = 0.7
"""Of an object's box with one whose corners are moved by as much as a middle may be missed."""


def radius(height: float, width: float) -> float:
    """How far two opposite corners of a box may both move, towards or away from the other, at overlap ``OVERLAP``.

    The smallest of CornerNet's three cases (Law and Deng 2018, section 3.2): one corner moves in and the other out,
    both in, both out.
    """
    around, area = height + width, height * width
    shifted = _root(1.0, -around, area * (1 - OVERLAP) / (1 + OVERLAP))
    shrunk = _root(4.0, -2 * around, (1 - OVERLAP) * area)
    grown = (
        math.sqrt((2 * OVERLAP * around) ** 2 + 16 * OVERLAP * (1 - OVERLAP) * area) - 2 * OVERLAP * around
    ) / (8 * OVERLAP)
    return max(0.0, min(shifted, shrunk, grown))


def _root(a: float, b: float, c: float) -> float:
    """The smaller root of a x^2 + b x + c."""
    return (-b - math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)


def heat(sides: tuple[int, int], rows: np.ndarray, columns: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """float32 [rows, columns], 1 at each middle and less around it: a Gaussian whose deviation is a third of the
    radius (and at least a sixth of a cell), the larger one where two overlap; 0 where there is no middle."""
    i, j = np.mgrid[: sides[0], : sides[1]]
    deviation = (2 * radii + 1) / 6
    squared = (i - rows[:, None, None]) ** 2 + (j - columns[:, None, None]) ** 2
    bumps = np.exp(-squared / (2 * deviation[:, None, None] ** 2))
    return bumps.max(0, initial=0.0).astype(np.float32)


def heat_loss(logits: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """Focal loss of each sample, less of it near a middle (equation 1), over the number of its objects (at least 1).
    Reduces: mean over samples. Gathers nothing."""
    logits = logits.float()
    p, there = logits.sigmoid(), target == 1
    hit = -((1 - p) ** ALPHA) * F.logsigmoid(logits)
    miss = -((1 - target) ** BETA) * p**ALPHA * F.logsigmoid(-logits)
    return torch.where(there, hit, miss).sum((1, 2, 3)) / there.sum((1, 2, 3)).clamp(min=1)
