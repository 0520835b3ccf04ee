"""The ray caster: compiled kernels from packed scenes to pixels. Nothing here knows words; see ``camera``.

Every solid is a signed distance bound of Lipschitz constant 1 in the unit space of ``vocabulary.Shape``.
Sphere tracing (Hart 1996) inside its bounding box finds the surface, and the least ratio of distance to travel
towards the light gives soft shadows free of sampling noise. All kernels live in one file because the cache of
numba does not notice a change in another file.

Kernels release the GIL and start no threads: callers choose the threads, and forked workers are safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

FAR = 1e9
GROUND_END = 40.0
"""Metres; beyond, the ground has become background."""


def _record(floats: str, vectors: str, integers: str) -> np.dtype:
    fields: list[tuple] = [(name, "f8") for name in floats.split()]
    fields += [(name, "f8", 3) for name in vectors.split()] + [(name, "i8") for name in integers.split()]
    return np.dtype(fields)


OBJECT = _record(
    "x y cos sin scale half_width half_depth height r g b r2 g2 b2 specular gloss print_z dot",
    "",
    "shape material pattern grain columns",
)
"""One packed object; colours are linear light."""

FRAME = _record(
    "half softness texture tile saturation noise blur outline",
    "eye forward right up sun light ambient horizon zenith floor floor2",
    "ground levels seed grain",
)
"""What a scene has beside its objects: camera, light, ground, background, development."""

METAL, WOOD, STONE = 2, 3, 4
STRIPED, CHECKERED, DOTTED = 1, 2, 3
SIDE36, UP36 = math.sin(math.pi / 5), math.cos(math.pi / 5)


def kernel(function: Callable) -> Callable:
    """Compile on first use, and keep the result on disk where there is a folder to keep it in."""
    options: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package nor the user's cache folder can be written
        return njit(**options)(function)


@kernel
def smooth_max(a, b, k):
    """Maximum whose edge is rounded over a width ``k``."""
    h = max(k - abs(a - b), 0.0) / k
    return max(a, b) + h * h * k * 0.25


@kernel
def star_profile(x, z):
    """Five-pointed star, tips at radius 0.9 and notches at 0.42, first tip up."""
    x = abs(x)
    fold = 2.0 * max(x * UP36 - z * SIDE36, 0.0)
    x, z = x - fold * UP36, z + fold * SIDE36
    fold = 2.0 * max(-x * UP36 - z * SIDE36, 0.0)
    x, z = abs(x + fold * UP36), z + fold * SIDE36
    edge_x, edge_z = 0.42 * SIDE36, 0.42 * UP36 - 0.9
    return (edge_x * (z - 0.9) - edge_z * x) / math.sqrt(edge_x * edge_x + edge_z * edge_z)


@kernel
def distance(shape, x, y, z):
    """Lower bound of the distance to solid number ``shape`` of ``vocabulary.SHAPES``, negative inside."""
    if shape == 0:  # sphere
        return math.sqrt(x * x + y * y + (z - 0.8) ** 2) - 0.8
    if shape == 1:  # cube
        sides = smooth_max(abs(x) - 0.66, abs(y) - 0.66, 0.12)
        return smooth_max(sides, abs(z - 0.66) - 0.66, 0.12)
    if shape == 2:  # cylinder
        return smooth_max(math.sqrt(x * x + y * y) - 0.6, abs(z - 0.75) - 0.75, 0.10)
    if shape == 3:  # cone: 1.65 high, 0.82 wide
        slope = (math.sqrt(x * x + y * y) * 1.65 + (z - 1.65) * 0.82) / 1.8425
        return smooth_max(slope, -z, 0.06)
    if shape == 4:  # pyramid: 1.35 high, 0.82 wide
        side = smooth_max(abs(x), abs(y), 0.06) * 1.35 + (z - 1.35) * 0.82
        return smooth_max(side / 1.5795, -z, 0.06)
    if shape == 5:  # torus, upright
        ring = math.sqrt(x * x + (z - 0.84) ** 2) - 0.59
        return math.sqrt(ring * ring + y * y) - 0.25
    if shape == 6:  # capsule
        dz = z - min(max(z, 0.45), 1.30)
        return math.sqrt(x * x + y * y + dz * dz) - 0.45
    if shape == 7:  # prism: hexagonal
        sides = max(abs(y), max(abs(0.5 * y + 0.8660254 * x), abs(0.5 * y - 0.8660254 * x))) - 0.65
        return smooth_max(sides, abs(z - 0.575) - 0.575, 0.06)
    if shape == 8:  # wedge
        slope = ((x - 0.85) * 1.25 + z * 1.70) / 2.1101
        profile = max(max(slope, -x - 0.85), -z)
        return smooth_max(profile, abs(y) - 0.5, 0.06)
    if shape == 9:  # star
        return smooth_max(star_profile(x, z - 0.74), abs(y) - 0.24, 0.10)
    if shape == 10:  # cross
        ax, az = abs(x), abs(z - 0.8)
        profile = min(max(ax - 0.8, az - 0.26), max(ax - 0.26, az - 0.8))
        return smooth_max(profile, abs(y) - 0.26, 0.08)
    if shape == 11:  # heart: a square on its corner with a disc on each upper side
        ax, dz = abs(x), z - 0.75
        square = (ax + abs(dz)) * 0.70710678 - 0.53
        disc = math.sqrt((ax - 0.3748) ** 2 + (dz - 0.3748) ** 2) - 0.53
        return smooth_max(min(square, disc), abs(y) - 0.27, 0.14)
    if shape == 12:  # mug
        rho = math.sqrt(x * x + y * y)
        body = smooth_max(abs(rho - 0.5) - 0.07, abs(z - 0.62) - 0.62, 0.05)
        floor = max(rho - 0.5, abs(z - 0.08) - 0.08)
        ring = math.sqrt((x - 0.59) ** 2 + (z - 0.64) ** 2) - 0.30
        handle = max(math.sqrt(ring * ring + y * y) - 0.09, 0.5 - x)
        return min(min(body, floor), handle)
    if shape == 13:  # arch
        block = max(abs(x) - 0.82, abs(z - 0.7) - 0.7)
        opening = abs(x) - 0.44 if z < 0.5 else math.sqrt(x * x + (z - 0.5) ** 2) - 0.44
        return smooth_max(smooth_max(block, -opening, 0.05), abs(y) - 0.3, 0.06)
    if shape == 14:  # mushroom
        rho2 = x * x + y * y
        cap = smooth_max(math.sqrt(rho2 + (z - 0.75) ** 2) - 0.8, 0.78 - z, 0.14)
        stem = smooth_max(math.sqrt(rho2) - 0.28 - 0.08 * (0.8 - z) * (0.8 - z), abs(z - 0.45) - 0.45, 0.06)
        return min(cap, stem * 0.97)
    # bowl
    rho2 = x * x + y * y
    shell = smooth_max(abs(math.sqrt(rho2 + (z - 0.835) ** 2) - 0.77) - 0.065, z - 0.82, 0.05)
    foot = max(math.sqrt(rho2) - 0.36, abs(z - 0.06) - 0.06)
    return min(shell, foot)


@kernel
def to_local(o, px, py, pz):
    """World position to the unit space of object ``o``."""
    dx, dy = px - o.x, py - o.y
    inv = 1.0 / o.scale
    return (dx * o.cos + dy * o.sin) * inv, (dy * o.cos - dx * o.sin) * inv, pz * inv


@kernel
def slab(origin, step, low, high, near, far):
    inv = 1.0 / (step if abs(step) > 1e-12 else 1e-12)
    a, b = (low - origin) * inv, (high - origin) * inv
    return max(near, min(a, b)), min(far, max(a, b))


@kernel
def box_span(o, ox, oy, oz, dx, dy, dz, pad):
    """Entry and exit of a local ray through the bounding box grown by ``pad``; entry > exit where it misses."""
    wide, deep = o.half_width + pad, o.half_depth + pad
    near, far = slab(ox, dx, -wide, wide, -FAR, FAR)
    near, far = slab(oy, dy, -deep, deep, near, far)
    return slab(oz, dz, -pad, o.height + pad, near, far)


@kernel
def meet(o, px, py, pz, dx, dy, dz, limit):
    """Metres along the ray to object ``o``; FAR if it is not met before ``limit``."""
    ox, oy, oz = to_local(o, px, py, pz)
    lx = dx * o.cos + dy * o.sin
    ly = dy * o.cos - dx * o.sin
    near, far = box_span(o, ox, oy, oz, lx, ly, dz, 0.004)
    near, far = max(near, 0.0), min(far, limit / o.scale)
    if near >= far:
        return FAR
    t = near
    for _ in range(64):
        d = distance(o.shape, ox + t * lx, oy + t * ly, oz + t * dz)
        if d < 0.0015:
            return t * o.scale
        t += d
        if t > far:
            return FAR
    return t * o.scale if d < 0.01 else FAR


@kernel
def nearest(objects, px, py, pz, dx, dy, dz, skip):
    """(object index or -1 for the ground or -2 for nothing, metres) of what the ray meets first."""
    best, which = FAR, -2
    if dz < -1e-6:
        t = -pz / dz
        if t < GROUND_END:
            best, which = t, -1
    for i in range(objects.shape[0]):
        if i != skip:
            t = meet(objects[i], px, py, pz, dx, dy, dz, best)
            if t < best:
                best, which = t, i
    return which, best


@kernel
def gradient(o, x, y, z):
    """Unit normal in local coordinates, from four evaluations of the distance."""
    h = 0.004
    a = distance(o.shape, x + h, y - h, z - h)
    b = distance(o.shape, x - h, y - h, z + h)
    c = distance(o.shape, x - h, y + h, z - h)
    d = distance(o.shape, x + h, y + h, z + h)
    nx, ny, nz = a - b - c + d, c + d - a - b, b + d - a - c
    inv = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    return nx * inv, ny * inv, nz * inv


@kernel
def lit(objects, px, py, pz, sun, softness):
    """Share of the sun that reaches a point, 0..1."""
    light = 1.0
    for i in range(objects.shape[0]):
        o = objects[i]
        ox, oy, oz = to_local(o, px, py, pz)
        lx = sun[0] * o.cos + sun[1] * o.sin
        ly = sun[1] * o.cos - sun[0] * o.sin
        lz = sun[2]
        reach = math.sqrt(ox * ox + oy * oy) + 2.0
        near, far = box_span(o, ox, oy, oz, lx, ly, lz, min(0.5, softness * reach))
        t = max(near, 0.012)
        if t >= far:
            continue
        for _ in range(40):
            d = distance(o.shape, ox + t * lx, oy + t * ly, oz + t * lz)
            share = 0.5 + 0.5 * d / (softness * t)
            if share < light:
                light = share
            if light <= 0.0:
                return 0.0
            t += max(abs(d), 0.025)
            if t > far:
                break
    return light * light * (3.0 - 2.0 * light)


@kernel
def openness(objects, px, py, pz, nx, ny, nz, self):
    """Share of the sky that a point sees, roughly: how far the solids are, a little way along the normal."""
    sky = 1.0
    for i in range(objects.shape[0]):
        o = objects[i]
        reach = 0.42 * o.scale
        gap = max(abs(px - o.x), abs(py - o.y)) - 1.05 * o.scale - reach
        if gap > 0.0 or i == self:
            continue
        sky *= clearance(o, px, py, pz, nx, ny, nz, 0.25 * reach) * clearance(
            o, px, py, pz, nx, ny, nz, reach
        )
    return sky


@kernel
def clearance(o, px, py, pz, nx, ny, nz, h):
    x, y, z = to_local(o, px + nx * h, py + ny * h, pz + nz * h)
    return 1.0 - 0.55 * min(max(1.0 - distance(o.shape, x, y, z) * o.scale / h, 0.0), 1.0)


@kernel
def speck(ix, iy, iz, seed):
    """A hash of lattice point and seed, uniform in 0..1."""
    n = (ix * 374761393 + iy * 668265263 + iz * 1440662683 + seed * 1274126177) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1103515245) & 0xFFFFFFFF
    n = ((n ^ (n >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((n ^ (n >> 15)) & 0xFFFFFF) / 16777215.0


@kernel
def cloud(x, y, z, seed):
    """Value noise in 0..1 with features of unit size."""
    fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
    ix, iy, iz = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    total = 0.0
    for corner in range(8):
        cx, cy, cz = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (u if cx else 1 - u) * (v if cy else 1 - v) * (w if cz else 1 - w)
        total += weight * speck(ix + cx, iy + cy, iz + cz, seed)
    return total


@kernel
def film(x, y, seed):
    """Value noise on a plane, in 0..1."""
    fx, fy = math.floor(x), math.floor(y)
    ix, iy = int(fx), int(fy)
    u, v = x - fx, y - fy
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = speck(ix, iy, 3, seed) * (1 - u) + speck(ix + 1, iy, 3, seed) * u
    high = speck(ix, iy + 1, 3, seed) * (1 - u) + speck(ix + 1, iy + 1, 3, seed) * u
    return low + v * (high - low)


@kernel
def second_colour(o, x, y, z):
    """How much of the pattern's second colour shows, 0..1."""
    if o.pattern == STRIPED:
        return 1.0 if (z * 3.1 + 0.15) % 1.0 > 0.52 else 0.0
    if o.pattern == CHECKERED:
        cells = math.floor(x * 2.6 + 100.0) + math.floor(y * 2.6 + 100.0) + math.floor(z * 2.6 + 100.0)
        return 1.0 if cells % 2.0 > 0.5 else 0.0
    if o.pattern == DOTTED:
        u, v, w = x * 2.1 % 1.0 - 0.5, y * 2.1 % 1.0 - 0.5, z * 2.1 % 1.0 - 0.5
        return 1.0 if u * u + v * v + w * w < 0.125 else 0.0
    return 0.0


@kernel
def ink(o, dots, x, z):
    """0..1 of ink at a place of the label, -1 outside its plate."""
    half_u, half_v = 0.5 * o.columns * o.dot, 0.5 * dots.shape[0] * o.dot
    if o.columns == 0 or abs(x) > half_u or abs(z - o.print_z) > half_v:
        return -1.0
    u, v = (x + half_u) / o.dot - 0.5, (half_v - (z - o.print_z)) / o.dot - 0.5
    iu, iv = math.floor(u), math.floor(v)
    fu, fv = u - iu, v - iv
    total = 0.0
    for corner in range(4):
        cu, cv = iu + (corner & 1), iv + (corner >> 1)
        if 0 <= cu < dots.shape[1] and 0 <= cv < dots.shape[0] and dots[cv, cu]:
            total += (fu if corner & 1 else 1 - fu) * (fv if corner >> 1 else 1 - fv)
    return min(max((total - 0.5) * 3.0 + 0.5, 0.0), 1.0)


@kernel
def paint(o, dots, x, y, z, ny, texture):
    """Colour of a surface point in local coordinates: r, g, b, and 1 on a printed label."""
    share = second_colour(o, x, y, z)
    r, g, b = o.r + share * (o.r2 - o.r), o.g + share * (o.g2 - o.g), o.b + share * (o.b2 - o.b)
    tone = 1.0
    if o.material == WOOD:
        bend = cloud(x * 1.5, y * 1.5, z * 0.7, o.grain)
        rings = math.sqrt((x + 1.3) ** 2 + (y + 0.9) ** 2) * 5.0 + bend * 3.0 + z * 0.4
        wave = abs(2.0 * (rings % 1.0) - 1.0)
        fibre = cloud(x * 22, y * 22, z * 2.5, o.grain)
        tone = 1.0 + texture * (0.55 * wave - 0.36 + 0.30 * (fibre - 0.5))
    elif o.material == STONE:
        grit = cloud(x * 14, y * 14, z * 14, o.grain)
        bright, dark = min(max((grit - 0.62) * 6.0, 0.0), 1.0), min(max((0.36 - grit) * 6.0, 0.0), 1.0)
        tone = 1.0 + texture * (
            0.5 * (cloud(x * 4, y * 4, z * 4, o.grain + 1) - 0.5) + 0.35 * bright - 0.5 * dark
        )
        lift = 0.07 * bright * texture
        r, g, b = r + lift, g + lift, b + lift
    if o.columns > 0 and ny < -0.25 and y < 0.0:
        dark = ink(o, dots, x, z)
        if dark >= 0.0:
            shade = 0.90 - 0.88 * dark
            return shade, shade, shade * 0.97, 1.0
    return r * tone, g * tone, b * tone, 0.0


@kernel
def ground_colour(f, x, y, away):
    """Colour of the ground; fine texture fades with distance, before it could alias."""
    fade = f.texture / (1.0 + 0.035 * away * away)
    share, tone = 0.0, 1.0
    u, v = x / f.tile, y / f.tile
    if f.ground == 1:  # checker
        share = 1.0 if (math.floor(u) + math.floor(v)) % 2.0 > 0.5 else 0.0
    elif f.ground == 2:  # planks
        row = math.floor(v)
        column = math.floor(u * 0.22 + 0.37 * row)
        tone += 0.28 * (speck(int(row), int(column), 0, f.seed) - 0.5)
        tone += 0.30 * (film(u * 1.2, v * 14.0, f.seed) - 0.5)
        share = 0.75 if v - row < 0.045 or (u * 0.22 + 0.37 * row) - column < 0.012 else 0.0
    elif f.ground == 3:  # tiles
        share = 1.0 if u - math.floor(u) < 0.055 or v - math.floor(v) < 0.055 else 0.0
        tone += 0.10 * (speck(math.floor(u), math.floor(v), 0, f.seed) - 0.5)
    elif f.ground == 4:  # concrete
        tone += 0.30 * (film(u * 2.0, v * 2.0, f.seed) - 0.5) + 0.22 * (
            film(u * 14.0, v * 14.0, f.seed + 1) - 0.5
        )
    share *= fade
    tone = 1.0 + (tone - 1.0) * fade
    return (
        (f.floor[0] + share * (f.floor2[0] - f.floor[0])) * tone,
        (f.floor[1] + share * (f.floor2[1] - f.floor[1])) * tone,
        (f.floor[2] + share * (f.floor2[2] - f.floor[2])) * tone,
    )


@kernel
def sky(f, dx, dy, dz, lamps):
    """Background in a direction; ``lamps`` scales the soft boxes that only reflections see."""
    h = min(max(dz * 1.6, 0.0), 1.0)
    glow = 0.0
    if lamps > 0.0:
        facing = dx * f.sun[0] + dy * f.sun[1] + dz * f.sun[2]
        glow = lamps * 1.6 * min(max((facing - 0.80) * 9.0, 0.0), 1.0)
        side = dx * f.right[0] + dy * f.right[1]
        if dz > 0.12 and dz < 0.80 and abs(side) > 0.55 and abs(side) < 0.88:
            glow += 0.55 * lamps
    r = f.horizon[0] + h * (f.zenith[0] - f.horizon[0]) + glow * f.light[0]
    g = f.horizon[1] + h * (f.zenith[1] - f.horizon[1]) + glow * f.light[1]
    b = f.horizon[2] + h * (f.zenith[2] - f.horizon[2]) + glow * f.light[2]
    return r, g, b


@kernel
def haze(f, r, g, b, away):
    """Distant ground turns into the background."""
    k = min(max((away - 5.0) / 14.0, 0.0), 1.0)
    k = k * k * (3 - 2 * k)
    return r + k * (f.horizon[0] - r), g + k * (f.horizon[1] - g), b + k * (f.horizon[2] - b)


@kernel
def mirrored(f, objects, dots, px, py, pz, dx, dy, dz, self):
    """Colour that a mirror at a point sees: objects and ground without shadows, or background with lamps."""
    which, t = nearest(objects, px, py, pz, dx, dy, dz, self)
    if which == -2:
        return sky(f, dx, dy, dz, 1.0)
    x, y, z = px + t * dx, py + t * dy, pz + t * dz
    if which == -1:
        r, g, b = ground_colour(f, x, y, 2.0 + t)
        shade = max(f.sun[2], 0.0) * (0.45 + 0.55 * openness(objects, x, y, z, 0.0, 0.0, 1.0, -1))
        up = 0.85
    else:
        o = objects[which]
        lx, ly, lz = to_local(o, x, y, z)
        nx, ny, nz = gradient(o, lx, ly, lz)
        r, g, b, _ = paint(o, dots[which], lx, ly, lz, ny, f.texture)
        shade = (nx * o.cos - ny * o.sin) * f.sun[0] + (nx * o.sin + ny * o.cos) * f.sun[1] + nz * f.sun[2]
        shade, up = max(shade, 0.0), 0.6 + 0.4 * nz
    r *= f.light[0] * shade + f.ambient[0] * up
    g *= f.light[1] * shade + f.ambient[1] * up
    b *= f.light[2] * shade + f.ambient[2] * up
    if which == -1:
        return haze(f, r, g, b, 2.0 + t)
    return r, g, b


@kernel
def shade_ground(f, objects, x, y, away):
    r, g, b = ground_colour(f, x, y, away)
    sun = f.sun[2] * lit(objects, x, y, 0.0, f.sun, f.softness)
    up = openness(objects, x, y, 0.0, 0.0, 0.0, 1.0, -1)
    r *= f.light[0] * sun + f.ambient[0] * up
    g *= f.light[1] * sun + f.ambient[1] * up
    b *= f.light[2] * sun + f.ambient[2] * up
    return haze(f, r, g, b, away)


@kernel
def shade_object(f, objects, dots, i, x, y, z, dx, dy, dz):
    """Colour of object ``i`` at a world point seen along a direction, and 1 where it is a printed label."""
    o = objects[i]
    lx, ly, lz = to_local(o, x, y, z)
    mx, my, nz = gradient(o, lx, ly, lz)
    r, g, b, printed = paint(o, dots[i], lx, ly, lz, my, f.texture)
    nx, ny = mx * o.cos - my * o.sin, mx * o.sin + my * o.cos
    facing = nx * f.sun[0] + ny * f.sun[1] + nz * f.sun[2]
    lift = 0.012 * o.scale
    ox, oy, oz = x + nx * lift, y + ny * lift, z + nz * lift
    sun = lit(objects, ox, oy, oz, f.sun, f.softness) if facing > 0.0 else 0.0
    up = openness(objects, x, y, z, nx, ny, nz, i) * (0.60 + 0.40 * nz)
    up *= 0.65 + 0.35 * min(max(lz * 1.6 + 0.35 * (nz + 1.0), 0.0), 1.0)  # near the ground less sky is seen
    bounce = 0.16 * max(0.3 - nz, 0.0) * (f.sun[2] + 0.3)
    direct = max(facing, 0.0) * sun
    dr = f.light[0] * (direct + bounce * f.floor[0]) + f.ambient[0] * up
    dg = f.light[1] * (direct + bounce * f.floor[1]) + f.ambient[1] * up
    db = f.light[2] * (direct + bounce * f.floor[2]) + f.ambient[2] * up
    view = -(dx * nx + dy * ny + dz * nz)
    rx, ry, rz = dx + 2 * view * nx, dy + 2 * view * ny, dz + 2 * view * nz
    shine = max(rx * f.sun[0] + ry * f.sun[1] + rz * f.sun[2], 0.0) ** o.gloss * o.specular * sun
    fresnel = (1.0 - min(max(view, 0.0), 1.0)) ** 4
    if o.material == METAL and printed == 0.0:
        er, eg, eb = mirrored(f, objects, dots, ox, oy, oz, rx, ry, rz, i)
        k = 0.74 + 0.26 * fresnel
        tr, tg, tb = r + fresnel * (1 - r) * 0.5, g + fresnel * (1 - g) * 0.5, b + fresnel * (1 - b) * 0.5
        dark = 0.55 + 0.45 * up
        r = (0.42 * r * dr + k * (tr * 1.08 + 0.035) * er * dark) + shine * f.light[0] * (0.35 + 0.65 * tr)
        g = (0.42 * g * dg + k * (tg * 1.08 + 0.035) * eg * dark) + shine * f.light[1] * (0.35 + 0.65 * tg)
        b = (0.42 * b * db + k * (tb * 1.08 + 0.035) * eb * dark) + shine * f.light[2] * (0.35 + 0.65 * tb)
        return r, g, b, printed
    er, eg, eb = 0.0, 0.0, 0.0
    if o.specular > 0.3:
        er, eg, eb = (
            sky(f, rx, ry, rz, 0.5) if rz > 0.0 else (f.floor[0] * 0.5, f.floor[1] * 0.5, f.floor[2] * 0.5)
        )
    k = o.specular * (0.045 + 0.40 * fresnel) * up
    gleam = shine * 0.8
    return (
        r * dr + gleam * f.light[0] + k * er,
        g * dg + gleam * f.light[1] + k * eg,
        b * db + gleam * f.light[2] + k * eb,
        printed,
    )


@kernel
def ray(f, u, v):
    """Unit direction through image coordinates, both -1..1 over a square picture."""
    x = f.forward[0] + f.half * (u * f.right[0] + v * f.up[0])
    y = f.forward[1] + f.half * (u * f.right[1] + v * f.up[1])
    z = f.forward[2] + f.half * (u * f.right[2] + v * f.up[2])
    inv = 1.0 / math.sqrt(x * x + y * y + z * z)
    return x * inv, y * inv, z * inv


@kernel
def look_along(f, objects, dots, u, v):
    """Linear r, g, b, what is met (as ``nearest``), metres to it, and 1 on a printed label."""
    dx, dy, dz = ray(f, u, v)
    ex, ey, ez = f.eye[0], f.eye[1], f.eye[2]
    which, t = nearest(objects, ex, ey, ez, dx, dy, dz, -1)
    printed = 0.0
    if which == -2:
        r, g, b = sky(f, dx, dy, dz, 0.0)
    elif which == -1:
        r, g, b = shade_ground(f, objects, ex + t * dx, ey + t * dy, t)
    else:
        r, g, b, printed = shade_object(
            f, objects, dots, which, ex + t * dx, ey + t * dy, ez + t * dz, dx, dy, dz
        )
    return (
        tone(r),
        tone(g),
        tone(b),
        which,
        t * (dx * f.forward[0] + dy * f.forward[1] + dz * f.forward[2]),
        printed,
    )


def _tone_curve() -> np.ndarray:
    """Linear light 0..4, square-root spaced, to display value: a shoulder above 0.7, then the sRGB curve."""
    x = np.linspace(0.0, 2.0, 1025) ** 2
    x = np.where(x > 0.7, 0.7 + 0.3 * (1.0 - np.exp(np.minimum(0.7 - x, 0.0) / 0.3)), x)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1.0 / 2.4) - 0.055)


TONE = _tone_curve()


@kernel
def tone(x):
    """Linear light to display value, from a table."""
    place = 512.0 * math.sqrt(min(max(x, 0.0), 3.99))
    i = int(place)
    return TONE[i] + (place - i) * (TONE[i + 1] - TONE[i])


@kernel
def cast(f, objects, dots, supersample, colour, depth, instances, printed):
    """Fill colour float32 [H, W, 3] (display values), depth float32, instances and printed uint8 [H, W].

    One ray per pixel, then ``supersample`` squared rays in pixels where an edge passes.
    """
    height, width = depth.shape
    for row in range(height):
        v = 1.0 - (2 * row + 1.0) / height
        for column in range(width):
            u = (2 * column + 1.0) / width - 1.0
            r, g, b, which, z, label = look_along(f, objects, dots, u, v)
            colour[row, column, 0], colour[row, column, 1], colour[row, column, 2] = r, g, b
            depth[row, column] = z if which > -2 else 0.0
            instances[row, column] = which + 1 if which >= 0 else 0
            printed[row, column] = 1 if label > 0.0 else 0
    if supersample > 1:
        smooth_edges(f, objects, dots, supersample, colour, instances)


@kernel
def smooth_edges(f, objects, dots, supersample, colour, instances):
    height, width = instances.shape
    mark = np.zeros((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            for other_row, other_column in ((row + 1, column), (row, column + 1)):
                if other_row == height or other_column == width:
                    continue
                gap = 0.0
                for c in range(3):
                    gap = max(gap, abs(colour[row, column, c] - colour[other_row, other_column, c]))
                if gap > 0.075 or instances[row, column] != instances[other_row, other_column]:
                    mark[row, column] = 1
                    mark[other_row, other_column] = 1
    for row in range(height):
        for column in range(width):
            if not mark[row, column]:
                continue
            r, g, b = 0.0, 0.0, 0.0
            for part in range(supersample * supersample):
                du = (2 * (part % supersample) + 1.0) / supersample
                dv = (2 * (part // supersample) + 1.0) / supersample
                u = (2 * column + du) / width - 1.0
                v = 1.0 - (2 * row + dv) / height
                pr, pg, pb, _, _, _ = look_along(f, objects, dots, u, v)
                r, g, b = r + pr, g + pg, b + pb
            inv = 1.0 / (supersample * supersample)
            colour[row, column, 0], colour[row, column, 1], colour[row, column, 2] = r * inv, g * inv, b * inv


@kernel
def soften(colour, sigma):
    """Separable Gaussian blur in place, ``sigma`` in pixels."""
    height, width, _ = colour.shape
    radius = math.ceil(2.5 * sigma)
    for axis in range(2):
        source = colour.copy()
        for row in range(height):
            for column in range(width):
                r, g, b, total = 0.0, 0.0, 0.0, 0.0
                for k in range(-radius, radius + 1):
                    y = min(max(row + (k if axis == 0 else 0), 0), height - 1)
                    x = min(max(column + (k if axis == 1 else 0), 0), width - 1)
                    w = math.exp(-0.5 * k * k / (sigma * sigma))
                    r, g, b = r + w * source[y, x, 0], g + w * source[y, x, 1], b + w * source[y, x, 2]
                    total += w
                colour[row, column, 0], colour[row, column, 1] = r / total, g / total
                colour[row, column, 2] = b / total


@kernel
def develop(f, colour, depth, instances, out):
    """Lens, film and print: display values float32 [H, W, 3] to uint8 [H, W, 3]."""
    height, width = depth.shape
    if f.blur * width > 0.1:
        soften(colour, f.blur * width)
    stroke = max(width // 128, 1)
    for row in range(height):
        for column in range(width):
            r, g, b = colour[row, column, 0], colour[row, column, 1], colour[row, column, 2]
            grey = 0.30 * r + 0.59 * g + 0.11 * b
            line = 1.0
            if f.outline > 0.0:
                y, x = min(row + stroke, height - 1), min(column + stroke, width - 1)
                here = instances[row, column]
                if here != instances[y, column] or here != instances[row, x]:
                    line = 1.0 - f.outline
            if f.levels > 0:  # a print has few tones, and its hues stay
                line *= math.floor(grey * f.levels + 0.5) / (f.levels * max(grey, 0.02))
            for c in range(3):
                value = grey + f.saturation * (colour[row, column, c] - grey)
                place = (row * width + column) * 3 + c
                grain = (
                    speck(place, 1, 7, f.grain)
                    + speck(place, 2, 7, f.grain)
                    + speck(place, 3, 7, f.grain)
                    - 1.5
                )
                value = value * line + 2.0 * f.noise * grain
                out[row, column, c] = int(min(max(value, 0.0), 1.0) * 255.0 + 0.5)


@kernel
def survey(f, objects, dots, instances, covered, printed):
    """Instances uint8 [H, W]; per object the pixels it would cover alone, and those of its visible label."""
    height, width = instances.shape
    ex, ey, ez = f.eye[0], f.eye[1], f.eye[2]
    for row in range(height):
        v = 1.0 - (2 * row + 1.0) / height
        for column in range(width):
            dx, dy, dz = ray(f, (2 * column + 1.0) / width - 1.0, v)
            best, which = FAR, -1
            for i in range(objects.shape[0]):
                t = meet(objects[i], ex, ey, ez, dx, dy, dz, FAR)
                if t < FAR:
                    covered[i] += 1
                    if t < best:
                        best, which = t, i
            instances[row, column] = which + 1
            if which >= 0 and objects[which].columns > 0:
                o = objects[which]
                x, y, z = to_local(o, ex + best * dx, ey + best * dy, ez + best * dz)
                if y < 0.0 and gradient(o, x, y, z)[1] < -0.25 and ink(o, dots[which], x, z) >= 0.0:
                    printed[which] += 1
