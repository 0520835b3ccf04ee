"""The colour camera, and the ground truth that only a simulated camera knows."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from oculex.world.font import HEIGHT, bitmap, width
from oculex.world.generate import GROUNDS
from oculex.world.objects import Object
from oculex.world.scene import Scene
from oculex.world.vocabulary import COLOUR, MATERIAL, MATERIALS, PATTERNS, SHAPE, SHAPES

SURVEY_SIZE = 64
"""Pixels on a side of the picture in which visibility is decided."""


@dataclass(frozen=True)
class View:
    """What one camera pass gives. H = W = size."""

    rgb: np.ndarray
    """uint8 [H, W, 3], sRGB."""
    depth: np.ndarray
    """float32 [H, W], metres along the viewing axis; 0 is background."""
    instances: np.ndarray
    """uint8 [H, W]; 0 is ground or background, i + 1 is object i."""
    semantic: np.ndarray
    """uint8 [H, W]; 0 is ground or background, k + 1 is shape k of ``shape_names()``."""
    printed: np.ndarray
    """uint8 [H, W]; 1 on printed labels."""
    boxes: np.ndarray
    """float32 [n, 4], x0 y0 x1 y1 in pixels around each object's visible part; zeros where none is."""


@dataclass(frozen=True)
class Survey:
    """How much of each object is seen, at 64 pixels."""

    visibility: tuple[float, ...]
    """Visible share of the pixels that the object would cover alone in the frame."""
    pixels: tuple[int, ...]
    """Visible pixels."""
    label_shares: tuple[float, ...]
    """Visible area of the printed label, as a share of what it would be if seen straight on."""
    letter_pixels: tuple[float, ...]
    """Visible pixels per character of the label."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """Of the visible part, as shares of the picture's side."""

    def visible(self, i: int) -> bool:
        """Would a person mention object ``i``?"""
        return self.visibility[i] >= 0.35 and self.pixels[i] >= 14

    def legible(self, i: int) -> bool:
        """Can the label of object ``i`` be read in a picture of 256 pixels?"""
        return self.visible(i) and self.label_shares[i] > 0.5 and self.letter_pixels[i] >= 14.0


def render(scene: Scene, size: int = 64, supersample: int = 2) -> np.ndarray:
    """uint8 [size, size, 3]. Pixels with an edge are averaged over ``supersample`` squared rays."""
    return _look(scene, size, supersample)[0]


def render_batch(
    scenes: Sequence[Scene], size: int = 64, supersample: int = 2, threads: int | None = None
) -> np.ndarray:
    """uint8 [n, size, size, 3]; ``threads`` defaults to the processors this process may use."""
    threads = min(threads or _processors(), len(scenes))
    out = np.empty((len(scenes), size, size, 3), np.uint8)

    def one(i: int) -> None:
        out[i] = render(scenes[i], size, supersample)

    if threads <= 1:
        for i in range(len(scenes)):
            one(i)
        return out
    # a pool of its own per call: threads do not survive a fork, so none is kept
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(scenes))))
    return out


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def look(scene: Scene, size: int = 64, supersample: int = 2) -> View:
    """Picture and ground truth in one pass."""
    rgb, depth, instances, printed = _look(scene, size, supersample)
    table = np.array([0] + [_SHAPE_NUMBER[o.shape] + 1 for o in scene.objects], np.uint8)
    return View(rgb, depth, instances, table[instances], printed, boxes(instances, len(scene.objects)))


def boxes(instances: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, 4]: x0 y0 x1 y1 in pixels around each object of an instance map, ends exclusive."""
    out = np.zeros((count, 4), np.float32)
    for i in range(count):
        rows, columns = np.nonzero(instances == i + 1)
        if rows.size:
            out[i] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return out


@lru_cache(maxsize=512)
def survey(scene: Scene) -> Survey:
    """What is visible in a scene; much cheaper than a picture, and remembered."""
    from oculex.world import raycast

    frame, objects, dots = pack(scene)
    n = len(scene.objects)
    instances = np.zeros((SURVEY_SIZE, SURVEY_SIZE), np.uint8)
    covered, printed = np.zeros(n, np.int64), np.zeros(n, np.int64)
    raycast.survey(frame[0], objects, dots, instances, covered, printed)
    seen = np.bincount(instances.ravel(), minlength=n + 1)[1:]
    frames = boxes(instances, n) / SURVEY_SIZE
    return Survey(
        tuple((seen / np.maximum(covered, 1)).tolist()),
        tuple(seen.tolist()),
        tuple(
            p / max(_label_area(scene, t), 1e-6) for p, t in zip(printed.tolist(), scene.objects, strict=True)
        ),
        tuple(p / max(len(t.label), 1) for p, t in zip(printed.tolist(), scene.objects, strict=True)),
        tuple(tuple(box) for box in frames.tolist()),
    )


def _label_area(scene: Scene, thing: Object) -> float:
    """Pixels of a survey that the label would cover if it faced the camera."""
    _, _, depth = scene.camera.project(thing.x, thing.y, 0.5 * thing.height)
    metre = 0.5 * SURVEY_SIZE / (depth * math.tan(0.5 * scene.camera.field_of_view))
    columns, dot = _label_dots(thing)
    return columns * HEIGHT * (dot * thing.scale * metre) ** 2


def _label_dots(thing: Object) -> tuple[int, float]:
    """Dots across the label and the size of one in units of the shape; no dots without a label."""
    box = SHAPE[thing.shape].print_box
    if not thing.label or box is None:
        return 0, 1.0
    columns = width(thing.label)
    return columns, min(2 * box[0] / columns, 2 * box[1] / HEIGHT)


def visibility(scene: Scene) -> tuple[float, ...]:
    """Visible share of each object's pixels, 0..1."""
    return survey(scene).visibility


_SHAPE_NUMBER = {s.name: i for i, s in enumerate(SHAPES)}
_MATERIAL_NUMBER = {m.name: i for i, m in enumerate(MATERIALS)}


def _look(scene: Scene, size: int, supersample: int) -> tuple[np.ndarray, ...]:
    from oculex.world import raycast

    frame, objects, dots = pack(scene)
    colour, depth = np.empty((size, size, 3), np.float32), np.empty((size, size), np.float32)
    instances, printed = np.empty((size, size), np.uint8), np.empty((size, size), np.uint8)
    rgb = np.empty((size, size, 3), np.uint8)
    raycast.cast(frame[0], objects, dots, supersample, colour, depth, instances, printed)
    raycast.develop(frame[0], colour, depth, instances, rgb)
    return rgb, depth, instances, printed


@cache
def linear(colour: str) -> tuple[float, float, float]:
    """A named colour as linear light (IEC 61966-2-1)."""
    r, g, b = (((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in COLOUR[colour].rgb)
    return r, g, b


def pack(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scene as the ray caster reads it: FRAME [1], OBJECT [n], label dots uint8 [n, rows, columns]."""
    from oculex.world import raycast

    eye, forward, right, up = scene.camera.basis
    look, ground = scene.domain, scene.ground
    power = 1.45 * look.intensity
    seed = zlib.crc32(f"{scene.split}/{scene.seed}/{scene.index}".encode()) & 0xFFFFFF
    frame = np.zeros(1, raycast.FRAME)
    frame[0] = (
        math.tan(0.5 * scene.camera.field_of_view), look.softness, look.texture, ground.tile, look.saturation,
        look.noise, look.blur, look.outline,
        eye, forward, right, up, scene.light.direction, tuple(c * power for c in look.light), look.ambient,
        scene.horizon, tuple(c * look.zenith for c in scene.horizon), ground.colour, ground.second,
        tuple(GROUNDS).index(ground.kind), look.levels, seed,
        seed + round(1000 * scene.time),
    )  # fmt: skip
    objects = np.zeros(len(scene.objects), raycast.OBJECT)
    for i, thing in enumerate(scene.objects):
        objects[i] = _pack_object(thing)
    dots = np.stack([bitmap(thing.label) for thing in scene.objects])
    return frame, objects, dots


def _pack_object(thing: Object) -> tuple[float, ...]:
    shape, material = SHAPE[thing.shape], MATERIAL[thing.material]
    first = linear(thing.colour)
    second = (0.25, 0.25, 0.26) if thing.colour == "white" else (0.86, 0.86, 0.84)
    if thing.colour == "gray":
        second = (0.03, 0.03, 0.03)
    columns, dot = _label_dots(thing)
    z = shape.print_box[2] if shape.print_box else 0.0
    return (
        thing.x, thing.y, math.cos(thing.yaw), math.sin(thing.yaw), thing.scale,
        shape.half_width, shape.half_depth, shape.height, *first, *second, material.specular, material.gloss,
        z, dot,
        _SHAPE_NUMBER[thing.shape], _MATERIAL_NUMBER[thing.material], PATTERNS.index(thing.pattern),
        thing.grain, columns,
    )  # fmt: skip
