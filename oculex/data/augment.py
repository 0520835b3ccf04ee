"""Training and evaluation views of an image: crops of a fixed size, uint8 [3, size, size]."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from oculex.data.decode import Encoded

Array = np.ndarray

GAP, EVALUATION_GAP = 1.0, 2.0
"""A JPEG may be decoded smaller while each side of the crop keeps that many pixels for one of the view. At 2 the view
is hardly another (Pillow's ``reducing_gap``: 0.2 of 255 in the mean); at 1, for training, pixels differ by about 1 of
255."""


def random_resized_crop(
    image: bytes | Array,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    key: str = "",
) -> Array:
    """A crop of random area and aspect ratio, resized to a square (Inception's; torchvision's geometry).

    ``scale`` is the crop's share of the area. The crop is drawn before the pixels are there, so that a JPEG is decoded
    no larger than this crop needs. Raises BadSample for what is no whole picture.
    """
    encoded = Encoded(image, key)
    return cropped(encoded, draw_box(encoded.size, rng, scale, ratio), size)


def cropped(encoded: Encoded, box: tuple[int, int, int, int], size: int) -> Array:
    """The part (left, top, right, bottom) of a picture, resized to a square by bicubic interpolation."""
    picture, smaller = encoded.decoded(min(box[2] - box[0], box[3] - box[1]) / size / GAP)
    left, top = box[0] // smaller, box[1] // smaller
    right, bottom = -(-box[2] // smaller), -(-box[3] // smaller)
    # what is still far too large is averaged in whole pixels first, without a copy of the crop
    factor = max(1, int(min(right - left, bottom - top) / size / EVALUATION_GAP))
    part = (left, top, right, bottom)
    pixels = np.array(picture.reduce(factor, part) if factor > 1 else picture.crop(part))
    if pixels.shape[:2] == (size, size):
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    # torch's vectorised resize of uint8 pixels gives Pillow's values within rounding in a fifth of the time
    channels_last = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return F.interpolate(channels_last, (size, size), mode="bicubic", antialias=True)[0].contiguous().numpy()


def draw_box(
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

    Resized and cut in one pass, with torchvision's rounding of the resized size and of the middle. Raises BadSample for
    what is no whole picture.
    """
    encoded = Encoded(image, key)
    short = min(encoded.size)
    picture, smaller = encoded.decoded(short / size / EVALUATION_GAP)
    resized = [int(size * side / short) for side in encoded.size]
    starts = [round((side - size) / 2) for side in resized]
    (x0, x1), (y0, y1) = (
        (start * full / side / smaller, (start + size) * full / side / smaller)
        for start, side, full in zip(starts, resized, encoded.size, strict=True)
    )
    if (x0, y0, x1, y1) != (0, 0, size, size) or picture.size != (size, size):
        picture = picture.resize(
            (size, size), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1), reducing_gap=EVALUATION_GAP
        )
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
