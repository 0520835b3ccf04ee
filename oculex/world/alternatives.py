"""Statements about a scene beside the same words put together wrongly, as in ARO (Yuksekgonul et al., 2023, section 2.2).

``relation``: "a red cube to the left of a blue sphere", and the two exchanged; ``attribution``: "a red cube and a blue
sphere", and their colours exchanged. What is false is false of the whole scene, hidden objects included, and what is
spoken of is visible.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from oculex.world.camera import survey
from oculex.world.english import PHRASE, article, pick
from oculex.world.relations import SPATIAL, between
from oculex.world.scene import Scene


def alternatives(scene: Scene, rng: np.random.Generator) -> list[dict[str, Any]]:
    """At most one statement of each kind, as the sample's key ``alternatives``; empty where a scene allows none."""
    seen = survey(scene)
    concepts = [thing.concept for thing in scene.objects]
    shown = [i for i, name in enumerate(concepts) if seen.visible(i) and concepts.count(name) == 1]
    pairs = list(permutations(shown, 2))
    related = [(i, j, name) for i, j in pairs for name in between(scene, i, j) if name in SPATIAL]
    mixed = [(i, j) for i, j in pairs if _exchanged(scene, i, j).isdisjoint(concepts)]
    found = []
    if related:
        i, j, name = pick(rng, related)
        one, two = article(concepts[i]), article(concepts[j])
        true, false = (f"{x} {PHRASE[name][0]} {y}" for x, y in ((one, two), (two, one)))
        found.append({"kind": "relation", "group": name, "true": true, "false": [false]})
    if mixed:
        i, j = pick(rng, mixed)
        a, b = scene.objects[i], scene.objects[j]
        true = f"{article(a.concept)} and {article(b.concept)}"
        false = f"{article(f'{b.colour} {a.shape}')} and {article(f'{a.colour} {b.shape}')}"
        found.append({"kind": "attribution", "group": a.colour, "true": true, "false": [false]})
    return found


def _exchanged(scene: Scene, i: int, j: int) -> set[str]:
    """What there would be if two objects had each other's colour."""
    a, b = scene.objects[i], scene.objects[j]
    return {f"{b.colour} {a.shape}", f"{a.colour} {b.shape}"}
