"""What the world is made of: shapes, colours, materials, patterns, sizes. Labels follow their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A solid of unit scale on z = 0 with its front towards -y; lengths are multiples of ``Object.scale``."""

    name: str
    half_width: float
    """Along x."""
    half_depth: float
    """Along y."""
    height: float
    footprint: float
    """Radius of the upright cylinder that contains the solid at every yaw."""
    volume: float
    """Of material, hollows not counted."""
    print_box: tuple[float, float, float] | None = None
    """Where a label fits on the front: half width, half height, height of its centre. None: nowhere."""
    facing: bool = False
    """Recognised from its front only, so scenes turn it roughly towards the camera."""
    flat: bool = False
    """Has flat faces alone, which rarely show the highlight by which rubber, plastic and metal differ."""


@dataclass(frozen=True)
class Colour:
    name: str
    rgb: tuple[int, int, int]
    """Surface colour in sRGB under white light."""


@dataclass(frozen=True)
class Material:
    name: str
    density: float
    """kg / m3."""
    emissivity: float
    """In the thermal infrared, 0..1."""
    specular: float
    """Strength of the highlight, 0..1."""
    gloss: float
    """Exponent of the highlight; larger is sharper."""
    speed_of_sound: float
    """m / s in the bulk."""
    damping: float
    """Loss factor of vibrations, 0..1."""


SHAPES: tuple[Shape, ...] = (
    Shape("sphere", 0.80, 0.80, 1.60, 0.80, 2.145, (0.46, 0.40, 0.84)),
    Shape("cube", 0.66, 0.66, 1.32, 0.90, 2.263, (0.50, 0.46, 0.66), flat=True),
    Shape("cylinder", 0.60, 0.60, 1.50, 0.60, 1.686, (0.42, 0.48, 0.75)),
    Shape("cone", 0.82, 0.82, 1.65, 0.82, 1.159, (0.30, 0.24, 0.42)),
    Shape("pyramid", 0.82, 0.82, 1.35, 1.11, 1.204, (0.32, 0.22, 0.36), flat=True),
    Shape("torus", 0.84, 0.25, 1.68, 0.86, 0.729, None, True),
    Shape("capsule", 0.45, 0.45, 1.75, 0.45, 0.922, (0.33, 0.40, 0.88)),
    Shape("prism", 0.75, 0.65, 1.15, 0.76, 1.678, (0.33, 0.42, 0.57), flat=True),
    Shape("wedge", 0.85, 0.50, 1.25, 0.99, 1.056, (0.30, 0.25, 0.36), True, flat=True),
    Shape("star", 0.87, 0.24, 1.64, 0.90, 0.514, (0.27, 0.24, 0.88), True, flat=True),
    Shape("cross", 0.80, 0.26, 1.60, 0.85, 0.712, (0.26, 0.24, 0.80), True, flat=True),
    Shape("heart", 0.91, 0.27, 1.66, 0.95, 1.048, (0.46, 0.34, 0.98), True),
    Shape("mug", 1.00, 0.57, 1.24, 1.00, 0.661, (0.36, 0.38, 0.64), True),
    Shape("arch", 0.82, 0.30, 1.40, 0.88, 0.923, None, True, flat=True),
    Shape("mushroom", 0.80, 0.80, 1.55, 0.80, 1.211),
    Shape("bowl", 0.84, 0.84, 0.82, 0.84, 0.492, (0.34, 0.20, 0.46)),
)
COLOURS: tuple[Colour, ...] = (
    Colour("red", (206, 22, 28)),
    Colour("orange", (250, 122, 8)),
    Colour("yellow", (250, 214, 20)),
    Colour("green", (34, 140, 44)),
    Colour("cyan", (36, 200, 210)),
    Colour("blue", (24, 62, 206)),
    Colour("purple", (122, 36, 176)),
    Colour("pink", (250, 130, 182)),
    Colour("brown", (104, 58, 26)),
    Colour("white", (240, 240, 238)),
    Colour("gray", (122, 124, 128)),
    Colour("black", (20, 20, 22)),
)
MATERIALS: tuple[Material, ...] = (
    Material("rubber", 1100.0, 0.95, 0.06, 8.0, 60.0, 0.20),
    Material("plastic", 1050.0, 0.92, 0.55, 90.0, 2300.0, 0.02),
    Material("metal", 7800.0, 0.15, 1.00, 160.0, 5900.0, 0.0005),
    Material("wood", 650.0, 0.90, 0.10, 16.0, 3900.0, 0.01),
    Material("stone", 2600.0, 0.93, 0.04, 8.0, 5000.0, 0.004),
)
PATTERNS: tuple[str, ...] = ("plain", "striped", "checkered", "dotted")
PATTERNED: tuple[str, ...] = ("rubber", "plastic")
"""Materials that take a pattern."""
SIZES: dict[str, float] = {"small": 0.26, "medium": 0.40, "large": 0.60}
"""Metres per unit of ``Shape`` lengths."""

SHAPE: dict[str, Shape] = {s.name: s for s in SHAPES}
COLOUR: dict[str, Colour] = {c.name: c for c in COLOURS}
MATERIAL: dict[str, Material] = {m.name: m for m in MATERIALS}

LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ23456789"
"""Single characters that are printed; O, I, Q, 0 and 1 are left out because they look alike."""
WORDS: tuple[str, ...] = (
    "TEA", "SUN", "BOX", "TOY", "JAM", "ZOO", "MAX", "FIX", "GO", "UP", "YES", "HI", "SKY", "BEE",
)  # fmt: skip


def shape_names() -> list[str]:
    return [s.name for s in SHAPES]


def colour_names() -> list[str]:
    return [c.name for c in COLOURS]


def material_names() -> list[str]:
    return [m.name for m in MATERIALS]
