"""Domains: the same world under another light, style or sensor."""

from __future__ import annotations

from dataclasses import dataclass

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Domain:
    """A shift of appearance. Colours are linear light, 1 is white under the studio key light."""

    name: str
    light_elevation: tuple[float, float] = (35.0, 65.0)
    """Degrees above the ground; drawn uniformly."""
    light: Rgb = (1.0, 0.97, 0.92)
    intensity: float = 1.0
    ambient: Rgb = (0.34, 0.36, 0.40)
    softness: float = 0.09
    """Tangent of the light's angular radius: how wide the edge of a shadow is."""
    horizon: tuple[Rgb, ...] = (
        (0.80, 0.82, 0.86), (0.86, 0.80, 0.72), (0.70, 0.80, 0.86), (0.74, 0.84, 0.76), (0.85, 0.76, 0.80),
    )  # fmt: skip
    """Background colours to draw from, at the horizon."""
    zenith: float = 0.62
    """Brightness overhead, relative to the horizon."""
    floor: float = 1.0
    """Brightness of the ground."""
    texture: float = 1.0
    """Contrast of ground and surface textures."""
    noise: float = 0.006
    """Standard deviation of sensor noise, of full scale."""
    blur: float = 0.0
    """Standard deviation of the lens blur, as a share of the image's width."""
    saturation: float = 1.0
    outline: float = 0.0
    """Strength of drawn contours."""
    levels: int = 0
    """Tones per channel, as in a print; 0: continuous."""
    ambient_temperature: float = 21.0
    """Degrees Celsius."""


DOMAINS: dict[str, Domain] = {
    d.name: d
    for d in (
        Domain("studio"),
        Domain(
            "dusk", (10.0, 20.0), (1.0, 0.74, 0.52), 1.15, (0.26, 0.25, 0.38), 0.07,
            ((0.95, 0.55, 0.35), (0.85, 0.45, 0.42), (0.70, 0.45, 0.55)), 0.40, 0.85, noise=0.012,
            ambient_temperature=16.0,
        ),
        Domain(
            "overcast", (60.0, 80.0), (0.95, 0.98, 1.0), 0.30, (0.72, 0.76, 0.80), 0.35,
            ((0.72, 0.75, 0.78), (0.65, 0.70, 0.74)), 0.90, 0.85, saturation=0.85, ambient_temperature=12.0,
        ),
        Domain(
            "night", (40.0, 65.0), (0.80, 0.88, 1.0), 0.62, (0.07, 0.085, 0.13), 0.04,
            ((0.03, 0.04, 0.09), (0.05, 0.05, 0.10)), 0.30, 0.75, noise=0.030, saturation=0.9,
            ambient_temperature=7.0,
        ),
        Domain(
            "film", (25.0, 50.0), (1.0, 0.86, 0.66), 1.05, (0.46, 0.40, 0.34), 0.10,
            ((0.86, 0.70, 0.52), (0.80, 0.66, 0.56)), 0.60, 0.95, noise=0.030, blur=0.006, saturation=0.80,
            ambient_temperature=24.0,
        ),
        Domain(
            "sketch", (45.0, 70.0), (1.0, 1.0, 1.0), 0.45, (0.75, 0.75, 0.75), 0.05,
            ((0.95, 0.93, 0.88),), 1.0, 1.30, texture=0.30, noise=0.0, saturation=0.85, outline=0.9, levels=5,
        ),
    )
}  # fmt: skip
"""Named domains; "studio" is where training happens unless said otherwise."""
