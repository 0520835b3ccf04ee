"""Two labelled pictures in one: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019).

What is mixed is drawn per sample; the partner is the sample at the mirrored place of the batch, as timm pairs them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def draw_mix(mixup: float, cutmix: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Own share of every pixel, and the partner's box (top, bottom, left, right): float32 [5].

    ``mixup`` and ``cutmix`` are the parameters of the two beta distributions, 0 for none; where both are given each is
    chosen half of the time.
    """
    drawn = np.array([1, 0, 0, 0, 0], np.float32)
    if mixup and not (cutmix and rng.random() < 0.5):
        drawn[0] = rng.beta(mixup, mixup)
    elif cutmix:
        side = np.sqrt(1 - rng.beta(cutmix, cutmix)) * size
        middle = rng.integers(size, size=2)
        drawn[1::2] = np.clip(middle - int(side) // 2, 0, size)
        drawn[2::2] = np.clip(middle + int(side) // 2, 0, size)
    return drawn


def mixed(pixels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [b, c, h, w] with their partners in them, and each one's own share [b] of its label."""
    _, _, height, width = pixels.shape
    rows = torch.arange(height, device=pixels.device)[:, None]
    columns = torch.arange(width, device=pixels.device)
    own, top, bottom, left, right = (each[:, None, None] for each in drawn.T)
    box = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    share = torch.where(box, 0.0, own)
    return pixels.lerp(pixels.flip(0), 1 - share[:, None]), share.mean(dim=(1, 2))


def soft_labels(labels: Tensor, share: Tensor, classes: int, smoothing: float) -> Tensor:
    """Target probabilities [b, classes]: both labels by their share, ``smoothing`` of the whole spread over all."""
    hot = torch.nn.functional.one_hot(labels, classes).float()
    both = hot.lerp(hot.flip(0), 1 - share[:, None])
    return both * (1 - smoothing) + smoothing / classes
