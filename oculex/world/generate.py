"""Drawing scenes: one pure function from (seed, index, configuration) to a scene."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from oculex.world.domains import Domain, Rgb
from oculex.world.draws import Draws
from oculex.world.layout import arrange
from oculex.world.objects import Object
from oculex.world.scene import Camera, Ground, Light, Scene, SceneConfig, class_names
from oculex.world.vocabulary import LETTERS, MATERIALS, PATTERNED, SHAPE, WORDS

GROUNDS: dict[str, tuple[tuple[Rgb, Rgb], ...]] = {
    "plain": (
        ((0.62, 0.60, 0.56), (0.6, 0.6, 0.6)), ((0.50, 0.56, 0.60), (0.6, 0.6, 0.6)),
        ((0.60, 0.53, 0.50), (0.6, 0.6, 0.6)), ((0.52, 0.58, 0.50), (0.6, 0.6, 0.6)),
    ),
    "checkered": (
        ((0.66, 0.64, 0.60), (0.40, 0.40, 0.40)), ((0.64, 0.58, 0.50), (0.42, 0.36, 0.30)),
        ((0.58, 0.64, 0.66), (0.34, 0.42, 0.46)),
    ),
    "wooden": (
        ((0.50, 0.34, 0.20), (0.20, 0.12, 0.07)), ((0.62, 0.48, 0.32), (0.30, 0.20, 0.12)),
        ((0.40, 0.30, 0.22), (0.15, 0.10, 0.07)),
    ),
    "tiled": (
        ((0.62, 0.66, 0.66), (0.36, 0.38, 0.38)), ((0.66, 0.62, 0.54), (0.42, 0.38, 0.32)),
        ((0.42, 0.50, 0.52), (0.70, 0.70, 0.68)),
    ),
    "concrete": (((0.46, 0.45, 0.44), (0.5, 0.5, 0.5)), ((0.56, 0.54, 0.51), (0.5, 0.5, 0.5))),
}  # fmt: skip
"""Kinds of floor, each with pairs of colours in linear light."""
_TILE = {"plain": 1.0, "checkered": 0.45, "wooden": 0.28, "tiled": 0.55, "concrete": 0.6}


@cache
def concept_frequencies(config: SceneConfig) -> tuple[float, ...]:
    """Probability of each concept of ``class_names(config)``: Zipf's law over a fixed shuffled ranking."""
    names = class_names(config)
    order = sorted(range(len(names)), key=lambda i: Draws("rank", names[i]).unit())
    weight = np.empty(len(names))
    weight[order] = np.arange(1, len(names) + 1, dtype=float) ** -config.concept_tail
    return tuple((weight / weight.sum()).tolist())


@cache
def _cumulative(config: SceneConfig) -> np.ndarray:
    return np.cumsum(concept_frequencies(config))


def make_scene(seed: int, index: int, config: SceneConfig | None = None) -> Scene:
    """Scene ``index`` of the world ``seed``; the same on every machine and in every process."""
    config = config or SceneConfig()
    draws, look = Draws("scene", config.split, seed, index), config.look
    count = config.objects[0] + draws.below(config.objects[1] - config.objects[0] + 1)
    azimuth = draws.uniform(-math.pi, math.pi)
    camera = Camera(azimuth, math.radians(draws.uniform(16.0, 34.0)), 1.0, (0.0, 0.0, 0.3))
    light = Light(
        azimuth + math.radians(draws.uniform(25.0, 75.0) * (1.0 if draws.chance(0.5) else -1.0)),
        math.radians(draws.uniform(*look.light_elevation)),
    )
    things = [_object(draws, config, camera, light, look) for _ in range(count)]
    camera, placed = arrange(draws, things, camera, config.clutter, config.arena)
    return Scene(
        seed, index, config.split, placed, light, _ground(draws, look), draws.pick(look.horizon), camera,
        look, config.arena,
    )  # fmt: skip


def _ground(draws: Draws, look: Domain) -> Ground:
    kind = draws.pick(tuple(GROUNDS))
    first, second = draws.pick(GROUNDS[kind])
    shade = look.floor * draws.uniform(0.60, 0.85)
    colours = [(c[0] * shade, c[1] * shade, c[2] * shade) for c in (first, second)]
    return Ground(kind, colours[0], colours[1], _TILE[kind] * draws.uniform(0.8, 1.25))


def _object(draws: Draws, config: SceneConfig, camera: Camera, light: Light, look: Domain) -> Object:
    """All of an object but its place."""
    concept = min(
        int(np.searchsorted(_cumulative(config), draws.unit(), side="right")), len(_cumulative(config)) - 1
    )
    shape = config.shapes[concept // len(config.colours)]
    colour = config.colours[concept % len(config.colours)]
    material = draws.pick(MATERIALS).name
    patterned = draws.chance(0.4) and material in PATTERNED
    pattern = draws.pick(("striped", "checkered", "dotted")) if patterned else "plain"
    printable = SHAPE[shape].print_box is not None
    label = ""
    if draws.chance(config.labels) and printable:
        label = draws.pick(WORDS) if draws.chance(0.25) else draws.pick(LETTERS)
    turn = 35.0 if label else 50.0
    facing = camera.azimuth + math.pi / 2 + math.radians(draws.uniform(-turn, turn))
    free = draws.uniform(-math.pi, math.pi)
    yaw = facing if label or SHAPE[shape].facing else free
    thing = Object(
        shape, colour, material, pattern, "large", 0.0, 0.0, yaw, label=label, grain=draws.below(1 << 20)
    )
    if draws.chance(config.moving):
        speed, heading = draws.uniform(0.15, 0.7), draws.uniform(-math.pi, math.pi)
        thing = replace(
            thing, vx=speed * math.cos(heading), vy=speed * math.sin(heading), spin=draws.uniform(-1.5, 1.5)
        )
    return replace(thing, temperature=_temperature(draws, thing, light, look))


_ABSORBS = {"black": 1.0, "brown": 0.85, "blue": 0.75, "purple": 0.75, "gray": 0.7, "green": 0.65, "red": 0.6}


def _temperature(draws: Draws, thing: Object, light: Light, look: Domain) -> float:
    """Ambient plus what the sun warms (dark surfaces more), or from the stove (hot) or the freezer (cold)."""
    fate = draws.unit()
    if fate < 0.15:
        hottest = {"rubber": 90.0, "plastic": 70.0, "wood": 95.0}.get(thing.material, 180.0)
        return round(draws.uniform(50.0, hottest), 1)
    if fate < 0.25:
        return round(draws.uniform(-15.0, 4.0), 1)
    sun = 14.0 * look.intensity * math.sin(light.elevation) * _ABSORBS.get(thing.colour, 0.35)
    return round(look.ambient_temperature + sun * draws.uniform(0.8, 1.0), 1)
