"""Several views of one picture: crops cut per sample, colours changed per batch.

A crop needs the picture in its own size, so it is cut in ``view``, in the loader's processes, with one decoding for
all crops. Colours cost far more and can be changed for a whole uint8 batch at once on the device. What is drawn is
drawn with the crop, from the sample's own generator: so a picture's views do not depend on the batch, the
micro-batch or the rank it falls into, and applying them is a pure function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import Sample
from oculex.data.augment import random_resized_crop
from oculex.data.decode import opened


@dataclass(frozen=True)
class Colours:
    """How colours are changed, in this order: jitter, grey, blur, solarise (BYOL's, SimCLR's and DINO's)."""

    jitter: float = 0.8
    """Probability that the four changes below are made, in random order."""
    brightness: float = 0.4
    """Half-width of the factor's interval around 1; so too for contrast and saturation."""
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    """Largest turn of the colour circle, either way, as a share of the whole."""
    grey: float = 0.2
    """Probability; so too for blur and solarise."""
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    """Width of the blur in pixels."""
    solarise: float = 0.0


WIDTH = 11
"""Numbers that say what is done to a crop: four places of the jitters, their four amounts, grey, blur, solarise."""


def draw(colours: Colours, rng: np.random.Generator) -> np.ndarray:
    """What is done to one crop, float32 [WIDTH]."""
    drawn = np.zeros(WIDTH, np.float32)
    drawn[:4], amounts = -1, (colours.brightness, colours.contrast, colours.saturation)
    if rng.random() < colours.jitter:
        drawn[:4] = rng.permutation(4)
        drawn[4:7] = [rng.uniform(max(0.0, 1 - amount), 1 + amount) for amount in amounts]
        drawn[7] = rng.uniform(-colours.hue, colours.hue)
    drawn[8] = rng.random() < colours.grey
    drawn[9] = rng.uniform(*colours.sigma) if rng.random() < colours.blur else 0.0
    drawn[10] = rng.random() < colours.solarise
    return drawn


def crops(
    sample: Sample, rng: np.random.Generator, size: int, scale: tuple[float, float], count: int = 1
) -> np.ndarray:
    """Random crops of ``scale`` of the area, each mirrored or not: uint8 [count, 3, size, size]."""
    least = math.ceil(size / math.sqrt(scale[0] * 3 / 4))
    picture = np.asarray(opened(sample["image"], sample["id"], at_least=least))
    cut = [random_resized_crop(picture, size, rng, scale=scale, key=sample["id"]) for _ in range(count)]
    return np.stack([each[:, :, ::-1] if rng.random() < 0.5 else each for each in cut])


def coloured(pixels: Tensor, drawn: Tensor) -> Tensor:
    """uint8 crops [n, 3, h, w] with what was drawn for each [n, WIDTH] done to them; float32 in 0..1.

    Equal to torchvision's operations on float images, which round nothing in between; float32 under autocast too.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        return _coloured(pixels.float() / 255, drawn)


def _coloured(x: Tensor, drawn: Tensor) -> Tensor:
    for place in range(4):
        for kind, change in enumerate(_JITTERS):
            rows = (drawn[:, place] == kind).nonzero()[:, 0]
            if len(rows):
                x[rows] = change(x[rows], drawn[rows, 4 + kind, None, None, None])
    rows = (drawn[:, 8] > 0).nonzero()[:, 0]
    if len(rows):
        x[rows] = _grey(x[rows]).expand(-1, 3, -1, -1)
    rows = (drawn[:, 9] > 0).nonzero()[:, 0]
    if len(rows):
        x[rows] = _blurred(x[rows], drawn[rows, 9])
    rows = (drawn[:, 10] > 0).nonzero()[:, 0]
    if len(rows):
        x[rows] = torch.where(x[rows] >= 128 / 255, 1 - x[rows], x[rows])
    return x


def _grey(x: Tensor) -> Tensor:
    weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device)
    return torch.einsum("nchw,c->nhw", x, weights)[:, None]


def _towards(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (other + (x - other) * factor).clamp_(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """The turn of the colour circle in HSV: value and saturation stay."""
    value, low = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    span = value - low
    red, green, blue = (x / span.clamp_min(1e-12)).split(1, dim=1)
    sixth = torch.where(
        x[:, :1] == value, green - blue, torch.where(x[:, 1:2] == value, 2 + blue - red, 4 + red - green)
    )
    k = (torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1) + sixth + 6 * turn) % 6
    return value - span * torch.minimum(k, 4 - k).clamp_(0, 1)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian over all pixels within three widths, mirrored at the border, as two matrix products."""
    rows, columns = (_gaussian(side, sigma) for side in x.shape[2:])
    return rows[:, None] @ x @ columns[:, None].transpose(-1, -2)


def _gaussian(side: int, sigma: Tensor) -> Tensor:
    """[n, side, side]: row i holds the weights by which pixel i is blurred."""
    reach = min(side - 1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = (-0.5 * (offsets / sigma[:, None]).square()).exp() * (offsets.abs() <= 3 * sigma[:, None])
    weights = weights / weights.sum(dim=1, keepdim=True)
    at = torch.arange(side, device=sigma.device)[:, None] + offsets
    at = torch.where(at < 0, -at, torch.where(at >= side, 2 * side - 2 - at, at))
    out = weights.new_zeros(len(sigma), side, side)
    return out.scatter_add_(2, at.expand(len(sigma), -1, -1), weights[:, None].expand(-1, side, -1))


_JITTERS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, factor: (x * factor).clamp_(0, 1),
    lambda x, factor: _towards(x, _grey(x).mean(dim=(1, 2, 3), keepdim=True), factor),
    lambda x, factor: _towards(x, _grey(x), factor),
    _hue,
)


def views(
    sample: Sample,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float],
    colours: tuple[Colours, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """One crop for each entry of ``colours``: uint8 [v, 3, size, size], and what is to be done to them, [v, WIDTH]."""
    return crops(sample, rng, size, scale, len(colours)), np.stack([draw(each, rng) for each in colours])


def normalised(view: Any, drawn: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Views [b, v, 3, h, w] with their colours changed and normalised, as one batch [b * v, 3, h, w].

    ``mean`` and ``std`` are of pixels in 0..255, [3, 1, 1].
    """
    return (coloured(view.flatten(0, 1), drawn.flatten(0, 1)) * 255 - mean) / std
