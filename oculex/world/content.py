"""What a caption is going to say of a scene, before it is put into words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from oculex.world.camera import survey
from oculex.world.draws import pick
from oculex.world.objects import Object
from oculex.world.relations import OPPOSITE, SPATIAL, between
from oculex.world.scene import Scene
from oculex.world.vocabulary import colour_names, shape_names


@dataclass(frozen=True)
class Content:
    """Visible objects, subject first, and how each relates to one before."""

    objects: tuple[Object, ...]
    places: tuple[tuple[str, int] | None, ...]
    """For each object (relation, position in ``objects``), or None; always None for the first."""
    legible: tuple[bool, ...]
    floor: str
    domain: str
    insist: bool = False
    """The relation of the second object must be told."""


def observe(scene: Scene, rng: np.random.Generator) -> Content:
    """The facts a caption may use; ``rng`` chooses which of several true relations are told."""
    seen = survey(scene)
    shown = [i for i in range(len(scene.objects)) if seen.visible(i)]
    places: list[tuple[str, int] | None] = []
    for place, i in enumerate(shown):
        told = None
        for earlier in range(place):
            spatial = [n for n in between(scene, i, shown[earlier]) if n in SPATIAL or n == "next to"]
            if spatial:
                told = spatial[int(rng.integers(len(spatial)))], earlier
                break
        places.append(told)
    return Content(
        tuple(scene.objects[i] for i in shown),
        tuple(places),
        tuple(bool(scene.objects[i].label) and seen.legible(i) for i in shown),
        scene.ground.kind,
        scene.domain.name,
    )


def falsify(scene: Scene, content: Content, rng: np.random.Generator) -> Content:
    """A content that reads as well and does not hold: another colour, another shape, or a place reversed."""
    concepts = [o.concept for o in scene.objects]
    reversible = len(content.objects) > 1 and content.places[1] and content.places[1][0] in OPPOSITE
    if (
        reversible
        and rng.random() < 0.35
        and all(concepts.count(o.concept) == 1 for o in content.objects[:2])
    ):
        name, other = content.places[1] or ("", 0)
        return replace(content, places=(None, (OPPOSITE[name], other), *content.places[2:]), insist=True)
    if not content.objects:
        content = replace(content, objects=scene.objects[:1], places=(None,), legible=(False,))
    thing = content.objects[0]
    if rng.random() < 0.5:
        options = [replace(thing, colour=c) for c in colour_names() if f"{c} {thing.shape}" not in concepts]
    else:
        options = [replace(thing, shape=s) for s in shape_names() if f"{thing.colour} {s}" not in concepts]
    return replace(content, objects=(pick(rng, options), *content.objects[1:]))
