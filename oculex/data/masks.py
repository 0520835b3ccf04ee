"""Classes of pixels, brought to the square that a picture is shown in (``oculex.data.boxes.fitted``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from oculex.contracts import BadSample, Sample

OUTSIDE = 255
"""Where a square shows no picture, and where nobody knows."""


def fitted_mask(sample: Sample, size: int, mirrored: bool = False) -> np.ndarray:
    """uint8 [size, size] of a sample's ``semantic``: its longer side ``size``, at the top left, the nearest value each.

    Raises BadSample where there is none, or it is no mask.
    """
    mask = sample.get("semantic")
    if mask is None:
        raise BadSample(sample["id"], "has no semantic mask, which this is about")
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.uint8 or not mask.size:
        raise BadSample(sample["id"], f"its semantic mask is no uint8 [H, W], but {mask.dtype} {mask.shape}")
    height, width = (max(1, round(side * size / max(mask.shape))) for side in mask.shape)
    if mask.shape != (height, width):
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    square = np.full((size, size), OUTSIDE, np.uint8)
    square[:height, :width] = mask[:, ::-1] if mirrored else mask
    return square


MOST_PIXELS = 1 << 26


def painted_mask(
    size: tuple[int, int],
    outlines: Sequence[Sequence[np.ndarray]],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    ignored: Sequence[bool],
) -> np.ndarray:
    """uint8 [H, W]: the class plus one at each pixel of a picture of ``size`` (width, height), 0 where no object is.

    Objects are painted by their polygons, the larger first, so that what is small is seen on what is large. What nobody
    knows is ``OUTSIDE``: the box of one that is ignored, and objects of no class. Raises BadSample for a size that no
    picture has.
    """
    if not (0 < size[0] * size[1] <= MOST_PIXELS and min(size) > 0):
        raise BadSample("mask", f"a picture of {size[0]} x {size[1]} pixels has no mask here")
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    for n in sorted(range(len(boxes)), key=lambda n: (not ignored[n], -areas[n])):
        if ignored[n]:
            pen.rectangle([float(edge) for edge in boxes[n]], fill=OUTSIDE)
            continue
        for outline in outlines[n]:
            pen.polygon(outline.tolist(), fill=labels[n] + 1 if labels[n] >= 0 else OUTSIDE)
    return np.asarray(mask)
