"""Training views as ALBEF's code makes them, which CTP's and other systems' authors took over: texts without their
punctuation, and its RandAugment, here by Pillow where theirs is by OpenCV, so that pixels between pixels may round
otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0
"""The magnitude at which each operation is strongest."""
GREY = (128, 128, 128)
"""Of pixels that come from outside the picture."""
SHIFT = 10
"""Pixels that a picture is moved by at most, whatever its size."""

Operation = Callable[[Image.Image, float, float], Image.Image]
"""(picture, strength 0..1, sign -1 or 1)."""


def plain_text(text: str, words: int) -> str:
    """Lower case, with blanks for . ! " ( ) * # : ; ~, and at most ``words`` words (separated by blanks)."""
    text = re.sub(r"\s{2,}", " ", re.sub(r"[.!\"()*#:;~]", " ", text.lower()))
    return " ".join(text.strip(" \n").split(" ")[:words])


def _moved(picture: Image.Image, *matrix: float) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY
    )


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """By 0.1 to 1.9 times, which is nothing at half the largest magnitude."""
    return lambda picture, strength, sign: kind(picture).enhance(0.1 + 1.8 * strength)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda picture, strength, sign: picture,
    "auto_contrast": lambda picture, strength, sign: ImageOps.autocontrast(picture),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "equalize": lambda picture, strength, sign: ImageOps.equalize(picture),
    "shear_x": lambda picture, strength, sign: _moved(picture, 1, sign * 0.3 * strength, 0, 0, 1, 0),
    "shear_y": lambda picture, strength, sign: _moved(picture, 1, 0, 0, sign * 0.3 * strength, 1, 0),
    "translate_x": lambda picture, strength, sign: _moved(picture, 1, 0, sign * SHIFT * strength, 0, 1, 0),
    "translate_y": lambda picture, strength, sign: _moved(picture, 1, 0, 0, 0, 1, sign * SHIFT * strength),
    "rotate": lambda picture, strength, sign: picture.rotate(
        sign * 30 * strength, Image.Resampling.BILINEAR, fillcolor=GREY
    ),
}
"""Those that ALBEF uses of its list."""


def rand_augment(image: np.ndarray, rng: np.random.Generator, magnitude: float, count: int = 2) -> np.ndarray:
    """``count`` operations on uint8 [3, H, W], drawn with replacement, each then done with probability one half.

    All have the same ``magnitude``, 0 to 10 (Cubuk et al. 2020, RandAugment, as ALBEF's code has it).
    """
    picture = Image.fromarray(image.transpose(1, 2, 0))
    names = list(OPERATIONS)
    for place in rng.integers(len(names), size=count):
        done, sign = rng.random() < 0.5, 1.0 if rng.random() < 0.5 else -1.0
        if done:
            picture = OPERATIONS[names[place]](picture, magnitude / MOST, sign)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
