"""The scene through time, as a camera that stands still films it."""

from __future__ import annotations

import numpy as np

from oculex.world.camera import look
from oculex.world.scene import Scene

FPS = 2.0
"""Frames per second."""
FRAMES = 4


def video(scene: Scene, size: int) -> np.ndarray:
    """uint8 [FRAMES, size, size, 3], sRGB, the first at the scene's own moment; edges are not smoothed."""
    return np.stack([look(scene.at(n / FPS), size, supersample=1).rgb for n in range(FRAMES)])
