"""Pictures with boxes, and texts whose phrases mean them: what a system that grounds words is shown of a sample.

A sample's ``boxes`` are in its pixels. ``grounded`` are texts with phrases: {"text", "spans": for each phrase the parts
of the text, [[start, end], ...] in characters, "boxes": for each phrase those that it means, by number}. ``box_labels``
are classes; a text is made of their names (GLIP, Li et al. 2022, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from oculex.contracts import BadSample, Sample, UserError
from oculex.data.decode import Encoded

SEPARATION = ". "
"""Between the names of classes."""
GAP = 2.0
"""A JPEG may be decoded smaller while the picture keeps that many pixels for one of the view."""


def fitted(
    sample: Sample, size: int, fill: tuple[float, float, float] = (0.0, 0.0, 0.0), mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [3, size, size], float32 [2]): the picture with its longer side ``size``, at the top left of a square of
    the colour ``fill`` (0..1), and its width and height there. Raises BadSample for what is no whole picture."""
    encoded = Encoded(sample["image"], sample["id"])
    scale = size / max(encoded.size)
    width, height = (max(1, round(side * scale)) for side in encoded.size)
    picture, _ = encoded.decoded(1 / scale / GAP)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=GAP)
    square = np.empty((size, size, 3), np.uint8)
    square[:] = np.round(255 * np.array(fill))
    pixels = np.asarray(picture)
    square[:height, :width] = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(square.transpose(2, 0, 1)), np.array([width, height], np.float32)


def picture_size(sample: Sample) -> tuple[int, int]:
    """Upright width and height in pixels; raises BadSample for what is no picture."""
    width, height = Encoded(sample["image"], sample["id"]).size
    return width, height


def class_prompt(
    names: Sequence[str],
    labels: Sequence[int],
    rng: np.random.Generator,
    negatives: int,
    fits: Any,
    alone: float = 0.05,
    full: float = 0.5,
) -> Mapping[str, Any]:
    """A grounded text of the names of classes in random order: all that are there, and others that are not.

    Of the others ``negatives`` are drawn in a share ``full`` of the texts, one or none in a share ``alone`` each,
    else any number. ``fits(text)``: whether a text is not too long; names that are not there are left out until it is
    (the authors' od_to_grounding.py). ``labels``: classes of the boxes, by number in ``names``; -1 is none.
    """
    present = sorted({label for label in labels if label >= 0})
    if present and present[-1] >= len(names):
        raise UserError(f"a box has class {present[-1]}, but there are {len(names)} class names")
    kind = rng.random()
    if kind < alone:
        count = 1
    elif kind < 2 * alone:
        count = 0
    else:
        count = negatives if kind < 2 * alone + full else int(rng.integers(max(1, negatives))) + 1
    drawn = rng.permutation(len(names))[: min(count, len(names))].tolist()
    absent = [label for label in drawn if label not in present]
    while True:
        chosen = [(present + absent)[n] for n in rng.permutation(len(present) + len(absent))]
        text, spans = joined([names[label] for label in chosen])
        if not absent or fits(text):
            break
        absent = absent[: len(absent) // 2]
    places: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        places.setdefault(label, []).append(number)
    return {"text": text, "spans": spans, "boxes": [places.get(label, []) for label in chosen]}


Spans = list[list[list[int]]]


def joined(names: Sequence[str]) -> tuple[str, Spans]:
    """Names as one text, and where each stands in it."""
    text, spans = "", Spans()
    for name in names:
        text += SEPARATION if text else ""
        spans.append([[len(text), len(text) + len(name)]])
        text += name
    return text, spans


def phrases_of_tokens(
    offsets: Sequence[tuple[int, int]], spans: Sequence[Sequence[Sequence[int]]], length: int
) -> np.ndarray:
    """bool [phrases, length]: which tokens are about each phrase, where ``offsets`` are the characters of each
    token."""
    about = np.zeros((len(spans), length), bool)
    for row, parts in zip(about, spans, strict=True):
        for place, (first, last) in enumerate(offsets):
            row[place] = any(max(first, start) < min(last, end) for start, end in parts)
    return about


def checked(boxes: Any, key: str) -> np.ndarray:
    """float32 [n, 4] of a sample's boxes; raises BadSample where they are not that."""
    found = np.asarray(boxes, np.float32)
    if found.size == 0:
        return np.zeros((0, 4), np.float32)
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        raise BadSample(key, f"its boxes are not [n, 4] numbers, got {found.shape}")
    return found


def solid(boxes: np.ndarray) -> np.ndarray:
    """bool [n]: boxes with an area; the others mean what is not seen."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
