"""The README's pictures: ``python -m oculex.report.pictures [RUN]`` writes them to docs/pictures.

Without a run, what the embedded world looks like and what it knows; with one, what the run retrieves, or draws, as well.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oculex import inference, runs
from oculex.report.picture import contact_sheet, wrapped
from oculex.training.folder import RunFolder, read_json
from oculex.training.reopen import load_recipe
from oculex.world import DOMAINS, SENSORS, SceneConfig, caption, make_scene, render

FOLDER = Path("docs/pictures")
_SEED = 77
_GOOD = (0, 121, 95)
_PALETTE = np.array(
    [(243, 243, 240), (11, 102, 176), (194, 76, 0), (0, 131, 104), (162, 60, 134), (94, 74, 0),
     (59, 66, 75), (99, 174, 240), (255, 154, 92)], np.uint8,
)  # fmt: skip


def world(size: int = 150) -> bytes:
    """Two scenes of every domain, each with a caption."""
    scenes = [
        make_scene(_SEED, 10 * n + k, SceneConfig(domain=name))
        for k in (0, 1)
        for n, name in enumerate(DOMAINS)
    ]
    texts = [caption(scene, np.random.default_rng(n)) for n, scene in enumerate(scenes)]
    return contact_sheet(np.stack([render(scene, size) for scene in scenes]), 6, texts)


def sensors(size: int = 180) -> bytes:
    """One scene as the camera, the depth sensor and the two masks have it."""
    scene, rng = make_scene(_SEED, 1), np.random.default_rng(0)
    depth, instances, semantic = (
        SENSORS[key](scene, size, rng, SceneConfig()) for key in ("depth", "instances", "semantic")
    )
    shown = [render(scene, size), _depth(depth), _mask(instances), _mask(semantic)]
    return contact_sheet(np.stack(shown), 4, ["image", "depth", "instances", "semantic"])


def _depth(depth: np.ndarray) -> np.ndarray:
    """Near is light; what has no depth is black."""
    near = np.divide(depth[depth > 0].min(), depth, out=np.zeros_like(depth), where=depth > 0)
    return np.repeat((255 * near**1.5)[..., None], 3, 2).astype(np.uint8)


def _mask(mask: np.ndarray) -> np.ndarray:
    numbers = np.unique(mask, return_inverse=True)[1].reshape(mask.shape)
    return _PALETTE[numbers]


def retrieval(entries: Sequence[Mapping[str, Any]], side: int = 110, hits: int = 5) -> bytes:
    """Text queries with their best hits; right ones are framed."""
    gap, text_width = 8, 210
    asked = [entry for entry in entries if entry["kind"] == "text_to_image"]
    size = (text_width + hits * (side + gap), max(1, len(asked)) * (side + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, entry in enumerate(asked):
        top = row * (side + gap)
        for n, line in enumerate(wrapped(entry["query"], text_width - 20, font, lines=5)):
            pen.text((0, top + 4 + 18 * n), line, fill=(23, 25, 28), font=font)
        for column, hit in enumerate(entry["hits"][:hits]):
            left = text_width + column * (side + gap)
            picture = Image.open(io.BytesIO(base64.b64decode(hit["image"].partition(",")[2])))
            sheet.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, top))
            if hit["right"]:
                pen.rectangle((left, top, left + side - 1, top + side - 1), outline=_GOOD, width=4)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


DRAWN = ("a red cone", "a green mug", "a purple bowl", "a white sphere", "a green cone", "a purple sphere")


def drawings(run: Path, side: int = 110) -> bytes:
    """Two pictures that a run draws of each of some texts: the first ones, not the best."""
    system, name = runs.load(run), load_recipe(RunFolder.open(run)).system
    texts = [text for _ in (0, 1) for text in DRAWN]
    shown = [
        Image.fromarray(inference.painted(system, name, text, seed)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for seed, text in enumerate(texts)
    ]
    return contact_sheet(np.stack([np.asarray(picture) for picture in shown]), len(DRAWN), texts)


def main(arguments: Sequence[str]) -> None:
    drawn = {"world": world(), "sensors": sensors()}
    for run in map(Path, arguments[:1]):
        gallery = RunFolder.open(run).path / "gallery.json"
        if gallery.exists():
            drawn["retrieval"] = retrieval(read_json(gallery))
        else:
            drawn["drawings"] = drawings(run)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in drawn.items():
        path = FOLDER / f"{name}.jpg"
        Image.open(io.BytesIO(data)).save(path, quality=84, optimize=True)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
