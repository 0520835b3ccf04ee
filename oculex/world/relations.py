"""Relations between objects as the camera sees them, with margins so wide that nobody would argue."""

from __future__ import annotations

import math
from typing import NamedTuple

from oculex.world.layout import image_box
from oculex.world.objects import Object
from oculex.world.scene import Scene

OPPOSITE: dict[str, str] = {
    "left of": "right of",
    "right of": "left of",
    "in front of": "behind",
    "behind": "in front of",
    "bigger than": "smaller than",
    "smaller than": "bigger than",
}
SPATIAL: tuple[str, ...] = ("left of", "right of", "in front of", "behind")
SYMMETRIC: tuple[str, ...] = ("next to", "same colour as", "same shape as", "same material as")


class Relation(NamedTuple):
    """``scene.objects[subject]`` is ``name`` ``scene.objects[object]``."""

    subject: int
    name: str
    object: int


def bulk(thing: Object) -> float:
    """Size as a person judges it: metres, the geometric mean of height and twice the footprint."""
    return math.sqrt(thing.height * 2.0 * thing.footprint)


def relations(scene: Scene) -> list[Relation]:
    """Every relation that clearly holds, both ways round."""
    return [
        Relation(i, name, j)
        for i in range(len(scene.objects))
        for j in range(len(scene.objects))
        if i != j
        for name in between(scene, i, j)
    ]


def between(scene: Scene, i: int, j: int) -> list[str]:
    """Names of the relations that object ``i`` clearly has to object ``j``."""
    a, b = scene.objects[i], scene.objects[j]
    names = []
    ua, _, wide_a, _, depth_a = image_box(a, scene.camera)
    ub, _, wide_b, _, depth_b = image_box(b, scene.camera)
    margin = max(0.12, 0.45 * (wide_a + wide_b))
    if abs(ua - ub) > margin:
        names.append("left of" if ua < ub else "right of")
    if abs(depth_a - depth_b) > max(0.30, 0.55 * (a.footprint + b.footprint)):
        names.append("in front of" if depth_a < depth_b else "behind")
    ratio = bulk(a) / bulk(b)
    if ratio > 1.3 and a.scale >= b.scale:
        names.append("bigger than")
    if ratio < 1 / 1.3 and a.scale <= b.scale:
        names.append("smaller than")
    if math.hypot(a.x - b.x, a.y - b.y) - a.footprint - b.footprint < 0.30:
        names.append("next to")
    names += [
        f"same {what} as" for what in ("colour", "shape", "material") if getattr(a, what) == getattr(b, what)
    ]
    return names
