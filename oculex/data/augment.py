"""Training and evaluation views of an image: crops of a fixed size, uint8 [3, size, size]."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from oculex.data.decode import opened

Array = np.ndarray


def random_resized_crop(
    image: bytes | Array,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    key: str = "",
) -> Array:
    """A crop of random area and aspect ratio, resized to a square (Inception's; torchvision's geometry).

    ``scale`` is the crop's share of the area. A JPEG is decoded no larger than the smallest crop needs.
    """
    picture = opened(
        image, key, at_least=math.ceil(size / math.sqrt(scale[0] * min(1.0, ratio[0] / ratio[1])))
    )
    return _resized(picture, _box(picture.size, rng, scale, ratio), size)


def _box(
    of: tuple[int, int], rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    width, height = of
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = width, height  # the widest crop within the ratio, in the middle
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resize_center_crop(image: bytes | Array, size: int, key: str = "") -> Array:
    """The shorter side resized to ``size``, then the middle square: CLIP's evaluation view.

    Resized and cut in one pass, with torchvision's rounding of the resized size and of the middle.
    """
    picture = opened(image, key, at_least=size)
    short = min(picture.size)
    resized = [int(size * side / short) for side in picture.size]
    starts = [round((side - size) / 2) for side in resized]
    (x0, x1), (y0, y1) = (
        (start * full / side, (start + size) * full / side)
        for start, side, full in zip(starts, resized, picture.size, strict=True)
    )
    return _resized(picture, (x0, y0, x1, y1), size)


def _resized(picture: Image.Image, box: tuple[float, float, float, float], size: int) -> Array:
    if box != (0, 0, size, size) or picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
