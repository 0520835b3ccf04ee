"""The parts of a sample's view that most systems share: one crop of the image, one of the captions."""

from __future__ import annotations

from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample, Tokenizer, UserError
from oculex.data.augment import cropped, random_resized_crop, resize_center_crop
from oculex.data.decode import Encoded


def image_view(
    sample: Sample, rng: np.random.Generator | None, size: int, crop: tuple[float, float]
) -> dict[str, Any]:
    """{"image": uint8 [3, size, size]}: a random square crop of ``crop`` of the area, without ``rng`` the centre.

    A sample without an image raises BadSample in training, and has an empty evaluation view.
    """
    if "image" not in sample:
        if rng is not None:
            raise BadSample(sample["id"], "has no image, which this system trains on")
        return {}
    if rng is None:
        return {"image": resize_center_crop(sample["image"], size, key=sample["id"])}
    return {"image": random_resized_crop(sample["image"], size, rng, scale=crop, key=sample["id"])}


def squeezed_view(sample: Sample, rng: np.random.Generator | None, size: int) -> dict[str, Any]:
    """{"image": uint8 [3, size, size]}: the whole picture, squeezed into a square, the same with and without ``rng``.

    A sample without an image is treated as ``image_view`` treats it.
    """
    if "image" not in sample:
        return image_view(sample, rng, size, (1.0, 1.0))
    encoded = Encoded(sample["image"], sample["id"])
    return {"image": cropped(encoded, (0, 0, *encoded.size), size)}


def label(sample: Sample, classes: int) -> int:
    """The class index of a sample; UserError where it has none or one that is out of range."""
    found = sample.get("label")
    if found is None or not 0 <= found < classes:
        raise UserError(
            f"{sample['id']}: label {found} is not one of {classes} classes; training on labels needs labelled images, "
            "such as a folder per class"
        )
    return int(found)


def captions(sample: Sample) -> list[str]:
    """All captions of a sample; empty where it has none."""
    return sample.get("captions") or ([sample["caption"]] if sample.get("caption") else [])


def caption(sample: Sample, rng: np.random.Generator | None) -> str | None:
    """One of the captions, without ``rng`` the first.

    A sample without a caption raises BadSample in training, and gives None in evaluation.
    """
    texts = captions(sample)
    if not texts:
        if rng is not None:
            raise BadSample(
                sample["id"],
                "has no caption, which this system trains on: give a captions file, or NAME.txt beside each image"
                + (" (labels alone are for `oculex evaluate`)" if "label" in sample else ""),
            )
        return None
    return texts[0 if rng is None else int(rng.integers(len(texts)))]


def text_view(
    sample: Sample, rng: np.random.Generator | None, tokenizer: Tokenizer, context: int
) -> dict[str, Any]:
    """{"tokens": list of ids} of one of the captions, as ``caption`` chooses it; empty where there is none."""
    text = caption(sample, rng)
    return {} if text is None else {"tokens": tokenizer.encode(text, context)}
