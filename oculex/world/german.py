"""German captions: adjectives in the mixed declension, after "ein"."""

from __future__ import annotations

import numpy as np

from oculex.world.content import Content
from oculex.world.draws import pick
from oculex.world.objects import Object
from oculex.world.words import (
    DE_COLOUR,
    DE_FLOOR,
    DE_MATERIAL,
    DE_NUMBER,
    DE_PATTERN,
    DE_RELATION,
    DE_SHAPE,
    DE_SIZE,
)

_ENDING = {
    "nominative": {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")},
    "dative": {"m": ("einem", "en"), "f": ("einer", "en"), "n": ("einem", "en")},
    "accusative": {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")},
}
_DEFINITE_DATIVE = {"m": "dem", "f": "der", "n": "dem"}
_LIGHT = {
    "studio": "Das Licht ist hell und gleichmäßig.", "dusk": "Warmes Abendlicht wirft lange Schatten.",
    "overcast": "Das Licht ist trüb und grau.", "night": "Es ist dunkel, nur eine Lampe leuchtet.",
    "film": "Das Bild ist warm getönt und körnig wie ein alter Film.",
    "sketch": "Es ist wie ein Druck mit Umrissen gezeichnet.",
}  # fmt: skip


def describe(
    thing: Object, case: str, size: bool, pattern: bool, material: bool, definite: bool = False
) -> str:
    """The object as a noun phrase; the definite article is for the dative alone."""
    noun = DE_SHAPE[thing.shape]
    article, ending = _ENDING[case][noun.gender]
    if definite:
        article = _DEFINITE_DATIVE[noun.gender]
    stems = [
        DE_SIZE[thing.size] if size and thing.size != "medium" else "",
        DE_PATTERN[thing.pattern] if pattern and thing.pattern != "plain" else "",
        DE_COLOUR[thing.colour],
    ]
    words = [article, *(stem + ending for stem in stems if stem), noun.word]
    if material:
        words += ["aus", DE_MATERIAL[thing.material]]
    return " ".join(words)


def alt(content: Content, rng: np.random.Generator) -> str:
    if not content.objects:
        return f"eine leere Szene {DE_FLOOR[content.floor]}"
    how = (rng.random() < 0.3, rng.random() < 0.6, rng.random() < 0.55)
    first = content.objects[0]
    text = describe(first, "nominative", *how)
    if content.legible[0] and rng.random() < 0.6:
        text += f" mit der Aufschrift {first.label}"
    if len(content.objects) > 1 and (content.insist or rng.random() < 0.85):
        second, place = content.objects[1], content.places[1]
        if place is None or (not content.insist and rng.random() < 0.25):
            text += f" und {describe(second, 'nominative', *how)}"
        else:
            there = f"{DE_RELATION[place[0]]} {describe(first, 'dative', *how)}"
            text = f"{describe(second, 'nominative', *how)} {there}"
    if rng.random() < 0.25:
        text += f" {DE_FLOOR[content.floor]}"
    return pick(rng, ("", "", "", "Foto: ", "zu sehen: ")) + text


def detailed(content: Content, rng: np.random.Generator) -> str:
    count = len(content.objects)
    counted = "ein Objekt" if count == 1 else f"{DE_NUMBER[count]} Objekte"
    opening = (
        f"Das Bild zeigt {counted} {DE_FLOOR[content.floor]}.",
        f"Man sieht {counted} {DE_FLOOR[content.floor]}.",
    )
    sentences = [pick(rng, opening)]
    for i, thing in enumerate(content.objects):
        place, name = content.places[i], describe(thing, "nominative", True, True, True)
        tail = f" mit der Aufschrift {thing.label}" if content.legible[i] else ""
        if i == 0:
            sentences.append(f"Das Hauptobjekt ist {name}{tail}.")
        elif place:
            other = describe(content.objects[place[1]], "dative", True, True, True, definite=True)
            sentences.append(f"{DE_RELATION[place[0]].capitalize()} {other} steht {name}{tail}.")
        else:
            sentences.append(f"Außerdem steht dort {name}{tail}.")
    sentences.append(_LIGHT.get(content.domain, ""))
    return " ".join(s for s in sentences if s)
