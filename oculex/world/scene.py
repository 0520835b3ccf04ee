"""Scenes: what is where, of what, how warm, how fast. All that a sensor may ask, nothing it computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

from oculex.contracts import UserError
from oculex.world.domains import DOMAINS, Domain, Rgb
from oculex.world.motion import advance
from oculex.world.objects import Object
from oculex.world.vocabulary import COLOUR, COLOURS, SHAPE, SHAPES, colour_names, shape_names


@dataclass(frozen=True)
class SceneConfig:
    """A distribution of scenes."""

    split: str = "train"
    """Scenes of different splits are drawn from different keys, so no index of one is in another."""
    objects: tuple[int, int] = (1, 4)
    """Fewest and most objects; uniform between."""
    concept_tail: float = 0.0
    """Exponent of Zipf's law over concepts (colour x shape); 0 draws them uniformly."""
    domain: str | Domain = "studio"
    clutter: float = 0.3
    """0..1: how near objects stand and how far they may hide one another."""
    labels: float = 0.3
    """Share of the objects that can carry one that have a printed label."""
    moving: float = 0.5
    """Share of the objects that move as time passes."""
    arena: float = 2.2
    """Metres from the centre to the border where moving objects turn back."""
    shapes: tuple[str, ...] = field(default_factory=lambda: tuple(shape_names()))
    colours: tuple[str, ...] = field(default_factory=lambda: tuple(colour_names()))

    def __post_init__(self) -> None:
        low, high = self.objects
        if not 1 <= low <= high <= 8:
            raise UserError(
                f"world: objects={self.objects} must be (fewest, most) with 1 <= fewest <= most <= 8"
            )
        if isinstance(self.domain, str) and self.domain not in DOMAINS:
            raise UserError(f"world: no domain {self.domain!r}; choose one of {', '.join(DOMAINS)}")
        for name, given, known in (("shapes", self.shapes, SHAPE), ("colours", self.colours, COLOUR)):
            unknown = [g for g in given if g not in known]
            if unknown or not given:
                raise UserError(f"world: {name} {unknown or '()'} unknown; choose from {', '.join(known)}")

    @property
    def look(self) -> Domain:
        return DOMAINS[self.domain] if isinstance(self.domain, str) else self.domain


@dataclass(frozen=True)
class Light:
    azimuth: float
    """Where the light comes from, radians anticlockwise from +x."""
    elevation: float

    @property
    def direction(self) -> tuple[float, float, float]:
        """Unit vector towards the light."""
        c = math.cos(self.elevation)
        return c * math.cos(self.azimuth), c * math.sin(self.azimuth), math.sin(self.elevation)


@dataclass(frozen=True)
class Ground:
    kind: str
    """An entry of ``GROUNDS``."""
    colour: Rgb
    second: Rgb
    """Linear light."""
    tile: float
    """Metres."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at ``target`` from ``distance`` metres; angles in radians."""

    azimuth: float
    """Where the camera stands, anticlockwise from +x around the target."""
    elevation: float
    distance: float
    target: tuple[float, float, float]
    field_of_view: float = math.radians(38.0)

    @cached_property
    def basis(self) -> tuple[tuple[float, float, float], ...]:
        """Position, and unit vectors forward, right and up."""
        ca, sa = math.cos(self.azimuth), math.sin(self.azimuth)
        ce, se = math.cos(self.elevation), math.sin(self.elevation)
        x, y, z = self.target
        eye = (x + self.distance * ce * ca, y + self.distance * ce * sa, z + self.distance * se)
        return eye, (-ce * ca, -ce * sa, -se), (-sa, ca, 0.0), (-se * ca, -se * sa, ce)

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Image coordinates (-1..1, right and up) and depth along the viewing axis in metres."""
        eye, forward, right, up = self.basis
        d = (x - eye[0], y - eye[1], z - eye[2])
        depth = max(sum(a * b for a, b in zip(d, forward, strict=True)), 1e-6)
        scale = 1.0 / (depth * math.tan(0.5 * self.field_of_view))
        u = sum(a * b for a, b in zip(d, right, strict=True)) * scale
        v = sum(a * b for a, b in zip(d, up, strict=True)) * scale
        return u, v, depth


@dataclass(frozen=True)
class Scene:
    """A world at one moment, with the camera that looks at it unless told otherwise."""

    seed: int
    index: int
    split: str
    objects: tuple[Object, ...]
    light: Light
    ground: Ground
    horizon: Rgb
    """Background colour, linear light."""
    camera: Camera
    domain: Domain
    arena: float
    time: float = 0.0
    """Seconds since the scene was made."""

    @property
    def subject(self) -> Object:
        """The main object, largest in the default view; it gives the scene its class."""
        return self.objects[0]

    def at(self, seconds: float) -> Scene:
        """The scene so many seconds later: objects slide, spin, and bounce off the border and one another."""
        moved = advance(self.objects, seconds, self.arena)
        return replace(self, objects=moved, time=self.time + seconds)

    def seen_from(
        self, azimuth: float, elevation: float | None = None, distance: float | None = None
    ) -> Scene:
        """The same world from another place.

        ``azimuth`` in degrees around the target, relative to the default camera (anticlockwise from above);
        ``elevation`` in degrees above the ground and ``distance`` in metres, both as they are unless given.
        """
        camera = replace(
            self.camera,
            azimuth=self.camera.azimuth + math.radians(azimuth),
            elevation=self.camera.elevation if elevation is None else math.radians(elevation),
            distance=self.camera.distance if distance is None else distance,
        )
        return replace(self, camera=camera)

    def within(self, domain: str | Domain) -> Scene:
        """The same world under another domain's light, style and sensor."""
        look = DOMAINS[domain] if isinstance(domain, str) else domain
        return replace(self, domain=look, horizon=look.horizon[self.index % len(look.horizon)])


def class_names(config: SceneConfig | None = None) -> list[str]:
    """Names of the scene classes in label order: colour x shape of the subject, "red cube"."""
    config = config or SceneConfig()
    return [f"{colour} {shape}" for shape in config.shapes for colour in config.colours]


def concept_index(thing: Object, config: SceneConfig | None = None) -> int:
    """Index of an object's concept in ``class_names(config)``."""
    config = config or SceneConfig()
    return config.shapes.index(thing.shape) * len(config.colours) + config.colours.index(thing.colour)


def class_of(scene: Scene, config: SceneConfig | None = None) -> int:
    """Label of the scene: the index of its subject's concept in ``class_names(config)``."""
    return concept_index(scene.subject, config)


def shape_index(thing: Object) -> int:
    return SHAPES.index(SHAPE[thing.shape])


def colour_index(thing: Object) -> int:
    return COLOURS.index(COLOUR[thing.colour])
