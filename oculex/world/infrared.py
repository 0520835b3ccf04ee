"""A thermal camera: each pixel's apparent temperature.

A surface of emissivity e at temperature T sends e T^4 of its own and reflects 1 - e of its surroundings' T_0^4 (grey
body, all wavelengths; Stefan-Boltzmann), and a camera that takes it for a black one reads the fourth root of the sum.
So bare metal shows the room, however hot it is.
"""

from __future__ import annotations

import numpy as np

from oculex.world.scene import Scene
from oculex.world.vocabulary import MATERIAL

KELVIN = 273.15


def apparent(celsius: float, emissivity: float, surroundings: float) -> float:
    """Kelvin that the camera reads of a surface; both temperatures in degrees Celsius."""
    own, reflected = (celsius + KELVIN) ** 4, (surroundings + KELVIN) ** 4
    return (emissivity * own + (1.0 - emissivity) * reflected) ** 0.25


def infrared(scene: Scene, instances: np.ndarray) -> np.ndarray:
    """float32 [H, W], kelvin, of the scene whose object index plus one is ``instances`` [H, W] (0: ground and walls,
    which have the ambient temperature)."""
    ambient = scene.domain.ambient_temperature
    table = [ambient + KELVIN] + [
        apparent(thing.temperature, MATERIAL[thing.material].emissivity, ambient) for thing in scene.objects
    ]
    return np.array(table, np.float32)[instances]
