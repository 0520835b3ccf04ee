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
from oculex.world.camera import View, look, survey
from oculex.world.graph import scene_graph
from oculex.world.grounding import grounded
from oculex.world.infrared import infrared
from oculex.world.questions import KINDS, questions
from oculex.world.scene import Scene, SceneConfig, concept_index
from oculex.world.sound import COUNT, sound
from oculex.world.video import FRAMES, video

Sensor = Callable[[Scene, int, np.random.Generator, SceneConfig], Any]
"""(scene, pixels a side of its picture, randomness of what is drawn, the distribution that the scene is of) -> the
sample's value. Classes are numbered within the distribution, and what it never has is not asked for."""


@lru_cache(maxsize=4)
def _seen(scene: Scene, size: int) -> View:
    """One camera pass for all keys of a scene; its picture is not smoothed, for nobody looks at it."""
    return look(scene, size, supersample=1)


def _semantic(scene: Scene, size: int, _: np.random.Generator, config: SceneConfig) -> np.ndarray:
    table = np.array([0] + [concept_index(thing, config) + 1 for thing in scene.objects], np.uint8)
    return table[_seen(scene, size).instances]


def _box_labels(scene: Scene, _size: int, _: np.random.Generator, config: SceneConfig) -> np.ndarray:
    seen = survey(scene)
    labels = [
        concept_index(thing, config) if seen.visible(i) else -1 for i, thing in enumerate(scene.objects)
    ]
    return np.array(labels, np.int64)


def _questions(scene: Scene, _size: int, rng: np.random.Generator, config: SceneConfig) -> list[dict]:
    return [asdict(asked) for asked in questions(scene, rng, len(KINDS), config)]


SENSORS: Mapping[str, Sensor] = {
    "depth": lambda scene, size, *_: _seen(scene, size).depth,
    "instances": lambda scene, size, *_: _seen(scene, size).instances,
    "semantic": _semantic,
    "boxes": lambda scene, size, *_: _seen(scene, size).boxes,
    "box_labels": _box_labels,
    "grounded": lambda scene, _, rng, __: grounded(scene, rng),
    "graph": lambda scene, size, *_: scene_graph(scene, size),
    "alternatives": lambda scene, _, rng, __: alternatives(scene, rng),
    "questions": _questions,
    "infrared": lambda scene, size, *_: infrared(scene, _seen(scene, size).instances),
    "audio": lambda scene, size, *_: sound(scene),
    "video": lambda scene, size, *_: video(scene, size),
}
"""Keys of ``oculex.data.schema``, which gives their types, shapes and units."""

ARRAYS: Mapping[str, tuple[str, Callable[[int], tuple[int, ...]]]] = {
    "depth": ("<f4", lambda size: (size, size)),
    "infrared": ("<f4", lambda size: (size, size)),
    "audio": ("<f4", lambda _: (COUNT,)),
    "video": ("|u1", lambda size: (FRAMES, size, size, 3)),
}
"""Type, and shape by the pixels a side, of those that are functions of the scene alone and take longer to make than to
read: worth keeping."""
