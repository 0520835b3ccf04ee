"""English captions."""

from __future__ import annotations

import numpy as np

from oculex.world.content import Content
from oculex.world.draws import pick
from oculex.world.objects import Object
from oculex.world.relations import OPPOSITE
from oculex.world.words import FLOOR, MATERIAL_WORD, NUMBER, SYNONYMS

PHRASE = {
    "left of": ("to the left of", "left of"), "right of": ("to the right of", "right of"),
    "in front of": ("in front of",), "behind": ("behind",), "next to": ("next to", "beside"),
}  # fmt: skip
_OPENINGS = ("", "", "", "", "a picture of ", "a photo of ", "there is ")
_LIGHT = {
    "studio": "The light is even and bright.", "dusk": "Low warm evening light casts long shadows.",
    "overcast": "The light is flat and grey.", "night": "It is dark, with a single lamp.",
    "film": "The picture has the warm tint and grain of old film.",
    "sketch": "It is drawn like a print with outlines.",
}  # fmt: skip


def article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def describe(thing: Object, size: bool, pattern: bool, material: bool) -> str:
    """Adjectives in English order, then the noun, without an article."""
    words = [
        thing.size if size and thing.size != "medium" else "",
        thing.pattern if pattern and thing.pattern != "plain" else "",
        thing.colour,
        MATERIAL_WORD[thing.material] if material else "",
        thing.shape,
    ]
    return " ".join(w for w in words if w)


def alt(content: Content, rng: np.random.Generator) -> str:
    """Short: the subject, mostly one or two more objects, sometimes the floor."""
    if not content.objects:
        return f"an empty scene on {FLOOR[content.floor]}"
    sized, textured, made = rng.random() < 0.3, rng.random() < 0.6, rng.random() < 0.55
    names = [article(describe(o, sized, textured, made)) for o in content.objects]
    if content.legible[0] and rng.random() < 0.6:
        names[0] += f" with {content.objects[0].label} on it"
    text = names[0]
    if len(names) > 1 and (content.insist or rng.random() < 0.85):
        text = _with_others(content, names, rng)
    if rng.random() < 0.25:
        text += f" on {FLOOR[content.floor]}"
    return pick(rng, _OPENINGS) + text


def placed(content: Content, rng: np.random.Generator) -> str:
    """How two objects stand, which are named by colour and shape alone, told from the one or the other equally often.

    ``alt`` tells it from the smaller and mostly farther one, so size and nearness say who is spoken of first.
    """
    if not content.objects:
        return alt(content, rng)
    names = [article(thing.concept) for thing in content.objects[:2]]
    text = " and ".join(names)
    if len(names) > 1 and content.places[1] is not None:
        name, (subject, other) = content.places[1][0], names
        if rng.random() < 0.5:
            text = f"{other} {pick(rng, PHRASE[name])} {subject}"
        else:
            text = f"{subject} {pick(rng, PHRASE[OPPOSITE.get(name, name)])} {other}"
    return pick(rng, _OPENINGS) + text


def _with_others(content: Content, names: list[str], rng: np.random.Generator) -> str:
    place = content.places[1]
    if place is None or (not content.insist and rng.random() < 0.25):
        others = names[1 : 2 + int(rng.integers(len(names) - 1))]
        listed = [names[0], *others]
        return ", ".join(listed[:-1]) + " and " + listed[-1]
    text = f"{names[1]} {pick(rng, PHRASE[place[0]])} {names[0]}"
    if len(names) > 2 and rng.random() < 0.5:
        text += f", and {names[2]}"
    return text


def detailed(content: Content, rng: np.random.Generator) -> str:
    """Every visible object with its attributes and place, then floor and light."""
    count = len(content.objects)
    noun = "object" if count == 1 else "objects"
    floor = FLOOR[content.floor]
    verb = "is" if count == 1 else "are"
    opening = (
        f"There {verb} {NUMBER[count]} {noun} on {floor}.",
        f"The picture shows {NUMBER[count]} {noun} on {floor}.",
    )
    sentences = [pick(rng, opening)]
    names = [describe(o, True, True, True) for o in content.objects]
    for i, thing in enumerate(content.objects):
        place, name = content.places[i], article(names[i])
        tail = f" with the label {thing.label} printed on it" if content.legible[i] else ""
        if i == 0:
            sentences.append(f"The main object is {name}{tail}.")
        elif place:
            sentences.append(
                f"{pick(rng, PHRASE[place[0]]).capitalize()} the {names[place[1]]} is {name}{tail}."
            )
        else:
            sentences.append(f"There is also {name}{tail}.")
    sentences.append(_LIGHT.get(content.domain, ""))
    return " ".join(s for s in sentences if s)


def synonyms(content: Content, rng: np.random.Generator) -> str:
    """``alt`` with every word that has synonyms replaced by one."""
    words = alt(content, rng).split(" ")
    out: list[str] = []
    for i, word in enumerate(words):
        bare = word.rstrip(",")
        other = pick(rng, SYNONYMS[bare]) if bare in SYNONYMS and words[i + 1 : i + 2] != ["floor"] else bare
        if out and out[-1] in ("a", "an"):
            out[-1] = "an" if other[0] in "aeiou" else "a"
        out.append(other + word[len(bare) :])
    return " ".join(out)


_JUNK = (
    "IMG_{n}.jpg", "DSC0{n}", "buy now, free shipping!", "photo {n} of {m}", "stock image #{n}",
    "Pinterest", "click to enlarge", "New 2019 | Best Price", "(c) all rights reserved", "thumbnail {m}x{m}",
)  # fmt: skip


def noisy(content: Content, rng: np.random.Generator) -> str:
    """As scraped: boilerplate, hashtags, shouting, typing errors, cut ends, or nothing of the picture."""
    junk = pick(rng, _JUNK).format(n=int(rng.integers(1000, 9999)), m=int(rng.integers(10, 99)))
    kind = rng.random()
    if kind < 0.2 or not content.objects:
        return junk
    text = alt(content, rng)
    if kind < 0.4:
        tags = [o.shape if rng.random() < 0.5 else o.colour + o.shape for o in content.objects]
        return " ".join(f"#{t}" for t in tags) + pick(rng, (" #cool", " #toys", ""))
    if kind < 0.6:
        return pick(rng, (f"{text} - {junk}", f"{junk} {text}"))
    if kind < 0.75:
        return pick(rng, (text.upper(), text.title()))
    if kind < 0.9:
        return _mistype(text, rng)
    return text[: max(8, int(len(text) * rng.uniform(0.4, 0.8)))] + "..."


def _mistype(text: str, rng: np.random.Generator) -> str:
    letters = list(text)
    for _ in range(1 + len(letters) // 25):
        i = int(rng.integers(1, len(letters) - 1))
        letters[i - 1 : i + 1] = letters[i - 1 : i + 1][::-1] if rng.random() < 0.5 else letters[i - 1 : i]
    return "".join(letters)
