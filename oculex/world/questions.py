"""Questions with one right answer, drawn so that a blind guesser gains nothing.

Yes/no questions toss the answer first and then look for a question that has it; one is asked only where both
answers were possible. Counts are drawn with weights that undo how often each count occurs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from oculex.world.camera import Survey, survey
from oculex.world.draws import pick
from oculex.world.objects import Object
from oculex.world.relations import OPPOSITE, SPATIAL, between, bulk
from oculex.world.scene import Scene, SceneConfig
from oculex.world.vocabulary import SHAPE
from oculex.world.words import MATERIAL_WORD, plural


@dataclass(frozen=True)
class Question:
    question: str
    answer: str
    kind: str
    """One of ``KINDS``."""


@dataclass(frozen=True)
class _Facts:
    scene: Scene
    seen: Survey
    shown: tuple[int, ...]
    """Objects that a person sees."""
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    """What is asked for: what such scenes never have would be answered without a look."""

    def thing(self, i: int) -> Object:
        return self.scene.objects[i]


def questions(
    scene: Scene, rng: np.random.Generator, n: int = 1, config: SceneConfig | None = None
) -> list[Question]:
    """Up to ``n`` questions about a scene of ``config``, at most one of each kind in ``KINDS``.

    One of a kind, because dropping repeats would tilt the answers: there is less that is true than that is not.
    """
    seen = survey(scene)
    config = config or SceneConfig()
    shown = tuple(i for i in range(len(scene.objects)) if seen.visible(i))
    facts = _Facts(scene, seen, shown, config.colours, config.shapes)
    asked = (_ASK[KINDS[kind]](facts, rng) for kind in rng.permutation(len(KINDS)))
    return [question for question in asked if question][:n]


def refer(scene: Scene, i: int, hide: str = "") -> str | None:
    """The shortest words that fit object ``i`` alone, without the attribute ``hide``; None if there are none.

    Hidden objects count too, so that nobody has to know what is visible to understand it.
    """
    options = (
        ("shape",), ("colour", "shape"), ("material", "shape"), ("colour",), ("colour", "material"),
        ("material",), ("colour", "material", "shape"),
    )  # fmt: skip
    thing = scene.objects[i]
    for keys in options:
        if hide in keys:
            continue
        if all(
            j == i or any(getattr(o, k) != getattr(thing, k) for k in keys)
            for j, o in enumerate(scene.objects)
        ):
            words = [
                thing.colour if "colour" in keys else "",
                MATERIAL_WORD[thing.material] if "material" in keys else "",
                thing.shape if "shape" in keys else "object",
            ]
            return "the " + " ".join(w for w in words if w)
    return None


def _exist(facts: _Facts, rng: np.random.Generator) -> Question | None:
    """Both answers share their marginals: a concept seen, or one with a seen colour or shape that is not."""
    present = {facts.thing(i).concept for i in facts.shown}
    every = {o.concept for o in facts.scene.objects}
    if not present:
        return None
    concept = pick(rng, sorted(present))
    colour, shape = concept.split()
    alike = ([f"{c} {shape}" for c in facts.colours], [f"{colour} {s}" for s in facts.shapes])
    absent = [[other for other in others if other not in every] for others in alike]
    if not any(absent):
        return None
    yes = rng.random() < 0.5
    if not yes:
        others = absent[0 if rng.random() < 0.5 else 1]
        concept = pick(rng, others or absent[0] or absent[1])
    asked = f"Is there a {concept} in the picture?".replace("a orange", "an orange")
    return Question(asked, "yes" if yes else "no", "exist")


_GRAINED = ("wood", "stone")
"""Materials that are known on any shape; on flat faces rubber, plastic and metal look alike."""
_COUNT_WEIGHT = (1.0, 1.0, 2.2, 6.0, 14.0, 20.0, 20.0, 20.0, 20.0)


def _count(facts: _Facts, rng: np.random.Generator) -> Question | None:
    if len(facts.shown) != len(facts.scene.objects):
        return None  # half-hidden objects make counting a matter of taste
    tests: list[tuple[str, str, str]] = [("objects", "", "")]
    tests += [(f"{c} objects", "colour", c) for c in facts.colours]
    tests += [(plural(s), "shape", s) for s in facts.shapes]
    tests += [(f"{MATERIAL_WORD[m]} objects", "material", m) for m in _GRAINED]
    by_answer: dict[int, list[str]] = {}
    for words, attribute, value in tests:
        number = sum(not attribute or getattr(o, attribute) == value for o in facts.scene.objects)
        by_answer.setdefault(number, []).append(words)
    answers = sorted(by_answer)
    weight = np.array([_COUNT_WEIGHT[a] for a in answers])
    answer = answers[int(np.searchsorted(np.cumsum(weight / weight.sum()), rng.random()))]
    return Question(f"How many {pick(rng, by_answer[answer])} are there?", str(answer), "count")


def _curved(thing: Object) -> bool:
    return not SHAPE[thing.shape].flat


def _attribute(
    name: str, wording: str, told: Callable[[Object], bool] = lambda _: True
) -> Callable[[_Facts, np.random.Generator], Question | None]:
    def ask(facts: _Facts, rng: np.random.Generator) -> Question | None:
        named = [
            (i, words)
            for i in facts.shown
            if told(facts.thing(i)) and (words := refer(facts.scene, i, hide=name))
        ]
        if not named and (len(facts.scene.objects) > 1 or not told(facts.thing(0))):
            return None
        i, words = pick(rng, named) if named else (0, "the object")
        return Question(wording.format(words), getattr(facts.thing(i), name), name)

    return ask


def _pairs(facts: _Facts) -> list[tuple[int, int, str, str]]:
    named = {i: refer(facts.scene, i) for i in facts.shown}
    return [(i, j, a, b) for (i, a), (j, b) in product(named.items(), repeat=2) if i != j and a and b]


def _relation(facts: _Facts, rng: np.random.Generator) -> Question | None:
    """True and false questions use the same pairs: for "no" the opposite of what holds is asked."""
    options = [
        (a, b, name) for i, j, a, b in _pairs(facts) for name in between(facts.scene, i, j) if name in SPATIAL
    ]
    if not options:
        return None
    a, b, name = pick(rng, options)
    yes = rng.random() < 0.5
    phrase = name if yes else OPPOSITE[name]
    phrase = {"left of": "to the left of", "right of": "to the right of"}.get(phrase, phrase)
    return Question(f"Is {a} {phrase} {b}?", "yes" if yes else "no", "relation")


def _compare(facts: _Facts, rng: np.random.Generator) -> Question | None:
    options = [
        (a, b, name)
        for i, j, a, b in _pairs(facts)
        for name in between(facts.scene, i, j)
        if name in ("bigger than", "smaller than")
    ]
    if not options:
        return None
    a, b, name = pick(rng, options)
    yes = rng.random() < 0.5
    return Question(f"Is {a} {name if yes else OPPOSITE[name]} {b}?", "yes" if yes else "no", "compare")


def _size(facts: _Facts, rng: np.random.Generator) -> Question | None:
    """Is this the largest of all? Asked where the largest is beyond doubt."""
    order = sorted(facts.shown, key=lambda i: -bulk(facts.thing(i)))
    if len(order) < 2 or bulk(facts.thing(order[0])) < 1.2 * bulk(facts.thing(order[1])):
        return None
    largest = refer(facts.scene, order[0])
    others = [words for i in order[1:] if (words := refer(facts.scene, i))]
    if not largest or not others:
        return None
    if rng.random() < 0.5:
        return Question(f"Is {largest} the largest object?", "yes", "size")
    return Question(f"Is {pick(rng, others)} the largest object?", "no", "size")


def _label(facts: _Facts, rng: np.random.Generator) -> Question | None:
    named = [
        (i, words) for i in facts.shown
        if facts.thing(i).label and facts.seen.legible(i) and (words := refer(facts.scene, i))
    ]  # fmt: skip
    if not named:
        return None
    i, words = pick(rng, named)
    return Question(f"What is printed on {words}?", facts.thing(i).label, "label")


_ASK: dict[str, Callable[[_Facts, np.random.Generator], Question | None]] = {
    "exist": _exist,
    "count": _count,
    "colour": _attribute("colour", "What colour is {}?"),
    "shape": _attribute("shape", "What shape is {}?"),
    "material": _attribute("material", "What is {} made of?", told=_curved),
    "size": _size,
    "relation": _relation,
    "compare": _compare,
    "label": _label,
}
KINDS: tuple[str, ...] = tuple(_ASK)
