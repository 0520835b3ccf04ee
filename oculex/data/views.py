"""The parts of a sample's view that most systems share: one crop of the image, one of the captions."""

from __future__ import annotations

from typing import Any

import numpy as np

from oculex.contracts import Sample, Tokenizer
from oculex.data.augment import random_resized_crop, resize_center_crop


def image_view(
    sample: Sample, rng: np.random.Generator | None, size: int, crop: tuple[float, float]
) -> dict[str, Any]:
    """{"image": uint8 [3, size, size]}: a random square crop of ``crop`` of the area, without ``rng`` the centre.

    Empty for a sample that has no image.
    """
    if "image" not in sample:
        return {}
    if rng is None:
        return {"image": resize_center_crop(sample["image"], size, key=sample["id"])}
    return {"image": random_resized_crop(sample["image"], size, rng, scale=crop, key=sample["id"])}


def captions(sample: Sample) -> list[str]:
    """All captions of a sample; empty where it has none."""
    return sample.get("captions") or ([sample["caption"]] if sample.get("caption") else [])


def text_view(
    sample: Sample, rng: np.random.Generator | None, tokenizer: Tokenizer, context: int
) -> dict[str, Any]:
    """{"tokens": list of ids}: one of the captions, without ``rng`` the first. Empty where there is none."""
    texts = captions(sample)
    if not texts:
        return {}
    text = texts[0 if rng is None else int(rng.integers(len(texts)))]
    return {"tokens": tokenizer.encode(text, context)}
