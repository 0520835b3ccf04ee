"""Objects: solids on the ground, and what follows from their shape, size and material."""

from __future__ import annotations

from dataclasses import dataclass

from oculex.world.vocabulary import MATERIAL, SHAPE, SIZES


@dataclass(frozen=True)
class Object:
    """A solid on the ground. Metres, seconds, radians, degrees Celsius; x, y on the ground, z up."""

    shape: str
    colour: str
    material: str
    pattern: str
    size: str
    x: float
    y: float
    yaw: float
    """Anticlockwise from above; at 0 the front looks towards -y."""
    vx: float = 0.0
    vy: float = 0.0
    spin: float = 0.0
    temperature: float = 21.0
    label: str = ""
    """Printed on the front; empty: none."""
    grain: int = 0
    """Seed of the surface texture."""

    @property
    def scale(self) -> float:
        return SIZES[self.size]

    @property
    def height(self) -> float:
        return SHAPE[self.shape].height * self.scale

    @property
    def footprint(self) -> float:
        """Radius of the upright cylinder that contains the object."""
        return SHAPE[self.shape].footprint * self.scale

    @property
    def volume(self) -> float:
        """m3."""
        return SHAPE[self.shape].volume * self.scale**3

    @property
    def mass(self) -> float:
        """kg."""
        return self.volume * MATERIAL[self.material].density

    @property
    def concept(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def state(self) -> str:
        """hot, cold or ambient, by what a hand would say."""
        return "hot" if self.temperature >= 45.0 else "cold" if self.temperature <= 5.0 else "ambient"
