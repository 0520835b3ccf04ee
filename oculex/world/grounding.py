"""Texts whose phrases mean boxes: a description with a phrase for each object, and words that fit one object alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from oculex.world.camera import survey
from oculex.world.english import PHRASE, article, describe, pick
from oculex.world.questions import refer
from oculex.world.relations import SPATIAL, between
from oculex.world.scene import Scene


def grounded(scene: Scene, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The sample's key ``grounded``; boxes are numbered as the scene's objects.

    ``phrases`` names the visible objects, and a phrase means all those that it fits; ``expression`` points at one, by
    attributes that no other object has or by how it stands to another. Both only where a scene allows them.
    """
    seen = survey(scene)
    shown = [i for i in range(len(scene.objects)) if seen.visible(i)]
    return [made for made in (_phrases(scene, shown, rng), _expression(scene, shown, rng)) if made]


def _phrases(scene: Scene, shown: list[int], rng: np.random.Generator) -> dict[str, Any] | None:
    if not shown:
        return None
    sized, textured, made = rng.random() < 0.2, rng.random() < 0.4, rng.random() < 0.4
    names = {i: describe(scene.objects[i], sized, textured, made) for i in shown}
    order = [shown[n] for n in rng.permutation(len(shown))]
    text = ""
    spans: list[list[list[int]]] = []
    for place, i in enumerate(order):
        if place:
            text += _joint(scene, order[place - 1], i, rng, last=place + 1 == len(order))
        whole = article(names[i])
        start = len(text) + len(whole) - len(names[i])
        text += whole
        spans.append([[start, len(text)]])
    return {
        "kind": "phrases",
        "text": text,
        "spans": spans,
        "boxes": [[j for j in shown if names[j] == names[i]] for i in order],
    }


def _joint(scene: Scene, before: int, i: int, rng: np.random.Generator, last: bool) -> str:
    told = [name for name in between(scene, before, i) if name in SPATIAL]
    if told and rng.random() < 0.5:
        return f" {pick(rng, PHRASE[pick(rng, told)])} "
    return " and " if last else ", "


def _expression(scene: Scene, shown: list[int], rng: np.random.Generator) -> dict[str, Any] | None:
    options: list[tuple[int, str]] = []
    for i in shown:
        words = refer(scene, i)
        if words:
            options.append((i, words))
        options += [
            (i, f"the object {pick(rng, PHRASE[name])} {other}")
            for j in shown
            if j != i and (other := refer(scene, j))
            for name in _alone(scene, i, j)
        ]
    if not options:
        return None
    i, text = pick(rng, options)
    return {"kind": "expression", "text": text, "spans": [[[0, len(text)]]], "boxes": [[i]]}


def _alone(scene: Scene, i: int, j: int) -> list[str]:
    """Relations that object ``i`` alone has to object ``j``, whatever is hidden."""
    rest = [k for k in range(len(scene.objects)) if k not in (i, j)]
    return [
        name
        for name in between(scene, i, j)
        if name in SPATIAL and all(name not in between(scene, k, j) for k in rest)
    ]
