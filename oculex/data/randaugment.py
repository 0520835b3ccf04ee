"""RandAugment and random erasing as timm draws them, here from one generator, so that a key replays every pixel.

RandAugment: Cubuk et al. 2020, in timm's variant "inc1" whose operations grow stronger with the magnitude throughout.
Random erasing: Zhong et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0
"""The magnitude at which each operation is strongest."""
FILL = (124, 116, 104)
"""Of pixels that come from outside the picture: ImageNet's mean colour."""

Operation = Callable[[Image.Image, float, float], Image.Image]
"""(picture, strength 0..1, sign -1 or 1)."""


def _moved(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _turned(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    return picture.rotate(sign * 30 * strength, Image.Resampling.BICUBIC, fillcolor=FILL)


def _brightened(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    """Adds to the pixels of the darker half."""
    add = int(110 * strength)
    return picture.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


def _posterized(picture: Image.Image, strength: float, sign: float) -> Image.Image:
    """Keeps the 4 highest bits or fewer, at the last none."""
    kept = 256 - (1 << 8 - (4 - int(4 * strength)))
    return picture.point([value & kept for value in range(256)] * 3)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, strength, sign: kind(picture).enhance(max(0.1, 1 + sign * 0.9 * strength))


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda picture, strength, sign: ImageOps.autocontrast(picture),
    "equalize": lambda picture, strength, sign: ImageOps.equalize(picture),
    "invert": lambda picture, strength, sign: ImageOps.invert(picture),
    "rotate": _turned,
    "posterize": _posterized,
    "solarize": lambda picture, strength, sign: ImageOps.solarize(picture, 256 - int(256 * strength)),
    "solarize_add": _brightened,
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda picture, strength, sign: _moved(picture, 1, sign * 0.3 * strength, 0, 0, 1, 0),
    "shear_y": lambda picture, strength, sign: _moved(picture, 1, 0, 0, sign * 0.3 * strength, 1, 0),
    "translate_x": lambda picture, strength, sign: _moved(
        picture, 1, 0, sign * 0.45 * strength * picture.width, 0, 1, 0
    ),
    "translate_y": lambda picture, strength, sign: _moved(
        picture, 1, 0, 0, 0, 1, sign * 0.45 * strength * picture.height
    ),
}


def rand_augment(
    image: np.ndarray, rng: np.random.Generator, magnitude: float, spread: float = 0.5, count: int = 2
) -> np.ndarray:
    """``count`` operations on uint8 [3, H, W], drawn with replacement, each then done with probability one half.

    The magnitude, 0 to 10, of each is drawn from a normal with deviation ``spread``: timm's
    rand-m{magnitude}-mstd{spread}-inc1.
    """
    picture = Image.fromarray(image.transpose(1, 2, 0))
    names = list(OPERATIONS)
    for place in rng.integers(len(names), size=count):
        done, strength = rng.random() < 0.5, rng.normal(magnitude, spread) / MOST
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if done:
            picture = OPERATIONS[names[place]](picture, min(1.0, max(0.0, strength)), sign)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def erase(
    image: np.ndarray,
    rng: np.random.Generator,
    probability: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: float = 0.3,
) -> np.ndarray:
    """With ``probability`` a rectangle of ``area`` of uint8 [C, H, W] is replaced by noise, a colour for each pixel.

    The noise is normal with the ``mean`` and ``std`` of the pixels in 0..1, which is timm's noise of normalised
    pixels, here rounded to bytes. ``aspect``: the smallest ratio of sides; the largest is its inverse.
    """
    if rng.random() >= probability:
        return image
    channels, height, width = image.shape
    for _ in range(10):
        size = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect), -math.log(aspect)))
        h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            scale, middle = (255 * np.array(values)[:, None, None] for values in (std, mean))
            noise = middle + scale * rng.standard_normal((channels, h, w))
            image = image.copy()
            image[:, top : top + h, left : left + w] = noise.round().clip(0, 255).astype(np.uint8)
            break
    return image
