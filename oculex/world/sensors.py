"""What a scene can be asked for beside its picture and captions: one entry for each key of a sample.

A further sensor is one more file that looks at the scene, and one more entry here. It costs nothing to those who
do not ask for its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np

from oculex.world.alternatives import alternatives
from oculex.world.camera import View, look
from oculex.world.graph import scene_graph
from oculex.world.infrared import infrared
from oculex.world.questions import KINDS, questions
from oculex.world.scene import Scene, concept_index
from oculex.world.sound import sound
from oculex.world.video import video

Sensor = Callable[[Scene, int, np.random.Generator], Any]
"""(scene, pixels a side of its picture, randomness of what is drawn) -> the sample's value."""


@lru_cache(maxsize=4)
def _seen(scene: Scene, size: int) -> View:
    """One camera pass for all keys of a scene; its picture is not smoothed, for nobody looks at it."""
    return look(scene, size, supersample=1)


def _semantic(scene: Scene, size: int, _: np.random.Generator) -> np.ndarray:
    table = np.array([0] + [concept_index(thing) + 1 for thing in scene.objects], np.uint8)
    return table[_seen(scene, size).instances]


SENSORS: Mapping[str, Sensor] = {
    "depth": lambda scene, size, _: _seen(scene, size).depth,
    "instances": lambda scene, size, _: _seen(scene, size).instances,
    "semantic": _semantic,
    "boxes": lambda scene, size, _: _seen(scene, size).boxes,
    "graph": lambda scene, size, _: scene_graph(scene, size),
    "alternatives": lambda scene, _, rng: alternatives(scene, rng),
    "questions": lambda scene, _, rng: [asdict(asked) for asked in questions(scene, rng, len(KINDS))],
    "infrared": lambda scene, size, _: infrared(scene, _seen(scene, size).instances),
    "audio": lambda scene, size, _: sound(scene),
    "video": lambda scene, size, _: video(scene, size),
}
"""Keys of ``oculex.data.schema``, which gives their types, shapes and units."""
