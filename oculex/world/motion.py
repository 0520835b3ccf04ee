"""Motion on the ground: sliding, spinning, and elastic collisions of footprints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from oculex.world.objects import Object

_STEP = 1.0 / 120.0
_RELAX = 8


def advance(objects: Sequence[Object], seconds: float, arena: float) -> tuple[Object, ...]:
    """Objects after ``seconds`` >= 0. Footprints bounce off each other (by mass) and off the border."""
    place = [[o.x, o.y] for o in objects]
    speed = [[o.vx, o.vy] for o in objects]
    radius, mass = [o.footprint for o in objects], [o.mass for o in objects]
    whole = int(seconds / _STEP + 1e-9)
    for step in range(whole + 1):
        dt = _STEP if step < whole else seconds - whole * _STEP
        for p, v in zip(place, speed, strict=True):
            p[0] += v[0] * dt
            p[1] += v[1] * dt
        for _ in range(_RELAX):
            if not _separate(place, speed, radius, mass, arena):
                break
    return tuple(
        replace(o, x=p[0], y=p[1], vx=v[0], vy=v[1], yaw=o.yaw + o.spin * seconds)
        for o, p, v in zip(objects, place, speed, strict=True)
    )


def _separate(
    place: list[list[float]], speed: list[list[float]], radius: list[float], mass: list[float], arena: float
) -> bool:
    """Push apart what overlaps and exchange momentum along the contact; True where something overlapped."""
    touched = False
    for i, (p, v) in enumerate(zip(place, speed, strict=True)):
        away = math.hypot(*p)
        if away + radius[i] > arena:
            touched = True
            nx, ny = p[0] / away, p[1] / away
            p[0], p[1] = nx * (arena - radius[i]), ny * (arena - radius[i])
            outward = v[0] * nx + v[1] * ny
            if outward > 0.0:
                v[0], v[1] = v[0] - 2.0 * outward * nx, v[1] - 2.0 * outward * ny
        for j in range(i):
            q, w = place[j], speed[j]
            dx, dy = p[0] - q[0], p[1] - q[1]
            gap = math.hypot(dx, dy)
            overlap = radius[i] + radius[j] - gap
            if overlap <= 0.0:
                continue
            touched = True
            nx, ny = dx / gap, dy / gap
            a, b = mass[j] / (mass[i] + mass[j]), mass[i] / (mass[i] + mass[j])
            push = overlap + 1e-6
            p[0], p[1] = p[0] + a * push * nx, p[1] + a * push * ny
            q[0], q[1] = q[0] - b * push * nx, q[1] - b * push * ny
            closing = (v[0] - w[0]) * nx + (v[1] - w[1]) * ny
            if closing < 0.0:
                v[0], v[1] = v[0] - 2.0 * a * closing * nx, v[1] - 2.0 * a * closing * ny
                w[0], w[1] = w[0] + 2.0 * b * closing * nx, w[1] + 2.0 * b * closing * ny
    return touched
