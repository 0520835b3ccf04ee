"""What a scene sounds like: every object is struck once, and what moves slides on the ground.

Modal synthesis (van den Doel and Pai 1998): a struck solid is a sum of damped sines. Their frequencies follow from the
speed of sound in the material, the size, and ratios that depend on the family of shapes; how long they ring from
the material's loss factor; how bright they are from its hardness. Sliding drives the same modes with noise.
Families and slenderness are caricatures of the shapes, not solutions of their equations.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from oculex.world.draws import Draws
from oculex.world.objects import Object
from oculex.world.scene import Scene
from oculex.world.vocabulary import MATERIAL, SHAPE

RATE = 16_000
"""Samples per second."""
SECONDS = 1.0
COUNT = int(RATE * SECONDS)
"""Samples of a sound."""
FIRST, GAP = 0.05, 0.22
"""Seconds before the subject is struck, and between the strikes of one object and the next."""
LOUDNESS = 0.25
"""Amplitude of a strike at one metre."""
SLIDING = 0.15
"""Amplitude of sliding at 1 m/s, relative to a strike."""

RATIOS: dict[str, tuple[float, ...]] = {
    "solid": (1.00, 1.06, 1.49, 1.55, 1.94, 2.36, 2.45, 2.90),
    "bar": (1.00, 2.76, 5.40, 8.93, 13.34, 18.64),
    "ring": (1.00, 2.83, 5.42, 8.77, 12.87, 17.70),
    "plate": (1.00, 1.73, 2.33, 3.91, 4.11, 6.30, 6.71, 8.00),
    "shell": (1.00, 2.25, 2.71, 4.00, 4.60, 6.25, 7.50, 9.00),
}
"""Partials as multiples of the lowest: bars and rings by the theory of thin ones, the other families after measured
tables (Fletcher and Rossing, The Physics of Musical Instruments)."""
FAMILY: dict[str, str] = {
    "sphere": "solid", "cube": "solid", "cone": "solid", "pyramid": "solid", "mushroom": "solid", "prism": "solid",
    "cylinder": "bar", "capsule": "bar", "wedge": "bar",
    "torus": "ring", "arch": "ring",
    "star": "plate", "cross": "plate", "heart": "plate",
    "mug": "shell", "bowl": "shell",
}  # fmt: skip
_WALL = 0.14
"""Of a shell, in the unit of ``Shape``'s lengths."""


def partials(thing: Object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hertz, decay rates in 1/s and relative amplitudes [n] of an object's modes below half the sample rate."""
    shape, material, family = SHAPE[thing.shape], MATERIAL[thing.material], FAMILY[thing.shape]
    sides = sorted((2 * shape.half_width, 2 * shape.half_depth, shape.height))
    thickness, length = (_WALL if family == "shell" else sides[0]), sides[2]
    # a solid rings with the time that sound takes through it; what is slender bends, lower by its slenderness
    lowest = material.speed_of_sound / (2 * length * thing.scale) * (thickness / length)
    hertz = lowest * np.array(RATIOS[family])
    kept = hertz < 0.45 * RATE
    hertz = hertz[kept] if kept.any() else hertz[:1] * 0.45 * RATE / hertz[0]
    decay = 2.0 + math.pi * hertz * material.damping
    brightest = 300.0 + 2.0 * material.speed_of_sound
    loud = np.exp(-((hertz / brightest) ** 2)) / np.sqrt(1.0 + np.arange(len(hertz)))
    return hertz, decay, loud / loud.sum()


def sound(scene: Scene) -> np.ndarray:
    """float32 [COUNT] in -1..1: what a microphone at the camera hears from the scene's moment on."""
    count = COUNT
    heard = np.zeros(count)
    eye = scene.camera.basis[0]
    for number, thing in enumerate(scene.objects):
        away = max(0.5, math.dist(eye, (thing.x, thing.y, 0.5 * thing.height)))
        ring = _ringing(thing)
        start = min(count - 1, int((FIRST + GAP * number) * RATE))
        heard[start:] += LOUDNESS / away * ring[: count - start]
        speed = math.hypot(thing.vx, thing.vy)
        if speed:
            heard += LOUDNESS * SLIDING * speed / away * _slid(ring, scene, number)
    return np.clip(heard, -1.0, 1.0).astype(np.float32)


def _ringing(thing: Object) -> np.ndarray:
    """A strike of amplitude 1, [COUNT]: the modes and the thud of the contact."""
    hertz, decay, loud = partials(thing)
    return _damped(np.append(hertz, 110.0), np.append(decay, 90.0), np.append(loud, 0.3))


def _damped(hertz: np.ndarray, decay: np.ndarray, loud: np.ndarray) -> np.ndarray:
    """The sum of damped sines [n] over ``COUNT`` samples.

    A sample's time is that of its block and that within the block, and exponentials of sums are products: a few hundred
    of them per sine instead of one per sample.
    """
    turn = (2j * math.pi * hertz - decay)[:, None] / RATE
    blocks, within = _blocks()
    return ((loud[:, None] * np.exp(turn * blocks)).T @ np.exp(turn * within)).imag.ravel()[:COUNT]


def _slid(ring: np.ndarray, scene: Scene, number: int) -> np.ndarray:
    """Noise through the modes, of deviation 1."""
    noise = _noise(f"{scene.split}/{scene.seed}/{scene.index}/{number}")
    size = 2 * len(ring)
    driven = np.fft.irfft(np.fft.rfft(noise, size) * np.fft.rfft(ring, size), size)[: len(ring)]
    return driven / max(float(driven.std()), 1e-9)


def _noise(key: str) -> np.ndarray:
    """Uniform in -1..1: all at once from raw bits, for which a draw is the key."""
    bits = np.random.Generator(np.random.Philox(key=Draws("sliding", key).below(1 << 53)))
    return 2.0 * bits.random(COUNT) - 1.0


@cache
def _blocks() -> tuple[np.ndarray, np.ndarray]:
    """The samples at which blocks begin, and those of a block, counted from there."""
    size = 128
    return np.arange(0, COUNT, size), np.arange(size)
