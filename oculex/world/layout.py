"""Placing objects so that a person sees each of them: in the frame, not buried, and the subject largest."""

from __future__ import annotations

import math
from dataclasses import replace

from oculex.world.draws import Draws
from oculex.world.objects import Object
from oculex.world.scene import Camera
from oculex.world.vocabulary import SHAPE

Box = tuple[float, float, float, float, float]
"""Centre, half width and half height in image coordinates, and depth."""

_DISTANCE = (0.0, 2.45, 2.85, 3.2, 3.5, 3.9, 4.3, 4.7, 5.1)
"""Metres to the camera by number of objects."""
_ROUNDS = 6
_TRIES = 24
_FILL = {
    "torus": 0.55,
    "arch": 0.65,
    "cross": 0.55,
    "star": 0.42,
    "mug": 0.65,
    "cone": 0.55,
    "pyramid": 0.55,
    "wedge": 0.58,
}
"""Share of its image box that a shape fills, where it is not about three quarters."""


def arrange(
    draws: Draws, things: list[Object], camera: Camera, clutter: float, arena: float
) -> tuple[Camera, tuple[Object, ...]]:
    """The camera at its distance and the objects at their places; the first is the subject.

    A crowded draw that does not work out starts over from farther away, where there is more room, until the
    subject would be too small; then from near again, and at last with one object fewer.
    """
    nearest = _DISTANCE[len(things)] * draws.uniform(0.95, 1.1)
    for attempt in range(_ROUNDS * 32):
        distance = nearest * 1.06 ** (attempt // 4 % _ROUNDS)
        camera = replace(camera, distance=distance, target=(0.0, 0.0, 0.26 + 0.03 * len(things)))
        placed = _attempt(draws, things, camera, clutter, arena)
        if placed is not None:
            return camera, placed
    return arrange(draws, things[:-1], camera, clutter, arena)


def image_box(thing: Object, camera: Camera) -> Box:
    shape = SHAPE[thing.shape]
    u, v, depth = camera.project(thing.x, thing.y, 0.5 * thing.height)
    near = 1.0 / (depth * math.tan(0.5 * camera.field_of_view))
    turn = thing.yaw - camera.azimuth - math.pi / 2
    across = abs(math.cos(turn)) * shape.half_width + abs(math.sin(turn)) * shape.half_depth
    wide = min(across, shape.footprint) * thing.scale
    tall = 0.5 * thing.height * math.cos(camera.elevation) + 0.8 * shape.half_depth * thing.scale * math.sin(
        camera.elevation
    )
    return u, v, wide * near, tall * near, depth


def _attempt(
    draws: Draws, things: list[Object], camera: Camera, clutter: float, arena: float
) -> tuple[Object, ...] | None:
    placed: list[Object] = []
    boxes: list[Box] = []
    for thing in things:
        for attempt in range(_TRIES):
            put = _candidate(
                draws, thing, camera, subject=not placed, alone=len(things) == 1, attempt=attempt
            )
            box = image_box(put, camera)
            if _fits(put, box, placed, boxes, clutter, arena):
                placed.append(put)
                boxes.append(box)
                break
        else:
            return None
    return tuple(placed)


def _candidate(
    draws: Draws, thing: Object, camera: Camera, subject: bool, alone: bool, attempt: int
) -> Object:
    """A place and a size; a place is drawn sideways and backwards as the camera sees it."""
    half = camera.distance * math.tan(0.5 * camera.field_of_view)
    if subject:
        side, back = draws.uniform(-0.45, 0.45) * half, draws.uniform(-0.40, 0.15) * half
        size = "large" if alone or draws.chance(0.6) else "medium"
        if alone:
            side, back = 0.5 * side, 0.5 * back
    else:
        side, back = draws.uniform(-0.95, 0.95) * half, draws.uniform(-0.7, 1.9) * half
        size = draws.pick(("small", "medium", "large") if attempt < _TRIES // 2 else ("small", "medium"))
    ca, sa = math.cos(camera.azimuth), math.sin(camera.azimuth)
    return replace(thing, x=-sa * side - ca * back, y=ca * side - sa * back, size=size)


def _fits(
    put: Object, box: Box, placed: list[Object], boxes: list[Box], clutter: float, arena: float
) -> bool:
    u, v, wide, tall, depth = box
    if abs(u) + wide > 0.97 or abs(v) + tall > 0.97 or math.hypot(put.x, put.y) + put.footprint > arena:
        return False
    area = wide * tall * _FILL.get(put.shape, 0.75)
    if not placed:
        return area > 0.045
    if area < 0.008 or area > 0.70 * boxes[0][2] * boxes[0][3] * _FILL.get(placed[0].shape, 0.75):
        return False
    gap, hidden = 0.16 - 0.12 * clutter, 0.08 + 0.50 * clutter
    for other, theirs in zip(placed, boxes, strict=True):
        if math.hypot(put.x - other.x, put.y - other.y) < put.footprint + other.footprint + gap:
            return False
        behind = box if depth > theirs[4] else theirs
        if _overlap(box, theirs) > hidden * 4.0 * behind[2] * behind[3]:
            return False
    return True


def _overlap(a: Box, b: Box) -> float:
    """Area shared by two image boxes."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0] - a[2], b[0] - b[2])
    upward = min(a[1] + a[3], b[1] + b[3]) - max(a[1] - a[3], b[1] - b[3])
    return max(across, 0.0) * max(upward, 0.0)
