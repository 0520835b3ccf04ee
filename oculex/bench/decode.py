"""JPEGs to training views on one core: oculex against open_clip's own pipeline, on the same files.

open_clip's side is what its users run: Pillow opens the bytes, ``image_transform(is_train=True)`` crops, resizes, makes a
float tensor and normalises it. Oculex gives uint8 pixels and normalises them on the device together with the model, so
the same sum on the processor is timed as well, as ``ratio with normalising``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from oculex.bench.rounds import duel
from oculex.contracts import UserError
from oculex.data import augment
from oculex.data.decode import Encoded, opened
from oculex.data.order import generator
from oculex.nn.joint.dual_encoder import DualEncoderConfig
from oculex.world import make_scene, render

SIZE = 224
SCALE, RATIO = (0.9, 1.0), (3 / 4, 4 / 3)
"""Of the random crop, the default of both."""
SHAPES = ((512, 384), (640, 480), (800, 600))
PER_SHAPE = 8
OWN = "OCULEX_BENCH_IMAGES"
"""Environment variable: a folder of JPEGs to measure as well."""
MOST = 64
TOLERANCE = (2.0, 64)
"""(mean, largest) absolute difference of a pixel in 0..255 from open_clip's for the same crop. What is decoded whole
differs by rounding; a JPEG with twice the pixels that are needed, or more, is decoded at 1/2, 1/4 or 1/8."""


def run(rounds: int = 15) -> dict[str, Any]:
    """Images a second of both, their ratio within alternating rounds, and how far their pixels are apart."""
    try:
        import open_clip
    except ImportError as error:
        raise UserError("this benchmark compares with open_clip; pip install 'oculex[openclip]'") from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    try:
        peer = open_clip.image_transform(SIZE, is_train=True)
        sets = {f"{w} x {h}": [_photo(w, h, seed) for seed in range(PER_SHAPE)] for w, h in SHAPES}
        every = [image for images in sets.values() for image in images]
        result = _compared(every, peer, rounds)
        result["by size"] = {name: _compared(images, peer, rounds)["ratio"] for name, images in sets.items()}
        if folder := os.environ.get(OWN):
            result[f"photographs of {OWN}"] = _compared(_read(Path(folder)), peer, rounds)
    finally:
        torch.set_num_threads(threads)
    return result | {"threads": 1, "load": load}


def _compared(images: Sequence[bytes], peer: Callable[[Image.Image], Any], rounds: int) -> dict[str, Any]:
    apart = difference(images)
    if apart["mean"] > TOLERANCE[0] or apart["largest"] > TOLERANCE[1]:
        raise RuntimeError(f"the pixels differ from open_clip's: {apart}")
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (DualEncoderConfig.mean, DualEncoderConfig.std))
    draw = generator(0, 0xBE)

    def ours() -> list[np.ndarray]:
        return [augment.random_resized_crop(image, SIZE, draw, SCALE, RATIO) for image in images]

    def theirs() -> list[Any]:
        return [peer(Image.open(io.BytesIO(image))) for image in images]

    def normalised() -> list[Any]:
        return [(torch.from_numpy(pixels).float() - mean) / std for pixels in ours()]

    result = duel(ours, theirs, rounds, len(images), "images/s")
    result["ratio with normalising"] = duel(normalised, theirs, rounds, len(images), "images/s")["ratio"]
    kilobytes = float(np.median([len(image) for image in images])) / 1000
    return result | {"images": len(images), "median kB": kilobytes, "pixel difference": apart}


def difference(images: Sequence[bytes]) -> dict[str, float]:
    """Mean and largest absolute difference, 0..255, from torchvision's crop and bicubic resize of the same boxes.

    Their corners lie on multiples of 8 pixels, so that they are the same box at every size of decoding.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resized_crop

    draw, means, largest = generator(0, 0xD1), [], 0
    for image in images:
        encoded = Encoded(image, "")
        x0, y0, x1, y1 = (v // 8 * 8 for v in augment.draw_box(encoded.size, draw, SCALE, RATIO))
        whole = opened(image, "")
        peer = resized_crop(whole, y0, x0, y1 - y0, x1 - x0, [SIZE, SIZE], InterpolationMode.BICUBIC)
        mine = augment.cropped(encoded, (x0, y0, x1, y1), SIZE).transpose(1, 2, 0)
        apart = np.abs(mine.astype(int) - np.asarray(peer).astype(int))
        means.append(apart.mean())
        largest = max(largest, int(apart.max()))
    return {"mean": float(np.mean(means)), "largest": largest}


def _photo(width: int, height: int, seed: int) -> bytes:
    """A scene with a lens's softness and a sensor's noise, so that it compresses like a photograph."""
    rng = generator(seed, width, 0xF0)
    side = max(width, height)
    pixels = np.asarray(render(make_scene(seed=3, index=seed), size=side), np.float32)[:height, :width]
    grain = sum(
        np.kron(rng.normal(0, 5, (side // step + 1, side // step + 1, 1)), np.ones((step, step, 1)))[
            :height, :width
        ]
        for step in (1, 2, 4)
    )
    buffer = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _read(folder: Path) -> list[bytes]:
    found = sorted(each for each in folder.rglob("*") if each.suffix.lower() in (".jpg", ".jpeg"))[:MOST]
    if not found:
        raise UserError(f"{OWN}={folder} has no JPEG files")
    return [each.read_bytes() for each in found]
