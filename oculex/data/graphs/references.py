"""Questions about what is described by its attributes and a neighbour (ProVision's scene-graph generators).

"What is the red object that is on the wooden table?" A description has ``SIZE`` elements: attributes of the thing,
one neighbour with its relation, and attributes of that. It means every thing of the picture that it fits, and the
answer is what holds of any of them; what is related is asked only of things that no other thing shares its
description with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from oculex.data.graphs.attributes import by_type
from oculex.data.graphs.facts import Fact, Known, generator, one_of, some
from oculex.data.graphs.schema import Graph
from oculex.data.graphs.words import OTHER, attribute_type, listed

SIZE = 3
MOST = 64
"""Descriptions of a picture that are made into facts, drawn at random where there are more."""


class Neighbour(NamedTuple):
    label: str
    predicate: str
    outward: bool
    """Whether the thing is ``predicate`` its neighbour, or the other way round."""
    attributes: tuple[str, ...]


class Description(NamedTuple):
    attributes: tuple[str, ...]
    neighbour: Neighbour | None

    def text(self) -> str:
        """The thing in words, without an article."""
        own = " ".join([listed(self.attributes), "object"]).strip()
        if self.neighbour is None:
            return own
        label, predicate, outward, attributes = self.neighbour
        other = " ".join(["the", listed(attributes), label]).replace("  ", " ")
        return f"{own} that is {predicate} {other}" if outward else f"{own} that {other} is {predicate}"


def descriptions(
    graph: Graph, i: int, without: str = "", but: Sequence[int] = (), size: int = SIZE
) -> list[Description]:
    """All of thing ``i``, each once, that tell no attribute of the type ``without`` and no neighbour in ``but``."""
    own = [each for each in graph.things[i].attributes if not without or attribute_type(each) != without]
    found = [Description(tuple(sorted(chosen)), None) for chosen in combinations(own, size)]
    for j, predicate, outward in _neighbours(graph)[i]:
        if j in but:
            continue
        thing = graph.things[j]
        for many in range(size):
            for inner in combinations(thing.attributes, size - 1 - many):
                neighbour = Neighbour(thing.label, predicate, outward, tuple(sorted(inner)))
                found += [Description(tuple(sorted(c)), neighbour) for c in combinations(own, many)]
    return list(dict.fromkeys(found))  # and no set, whose order is another one in each process


@lru_cache(maxsize=2)
def _neighbours(graph: Graph) -> list[list[tuple[int, str, bool]]]:
    found: list[list[tuple[int, str, bool]]] = [[] for _ in graph.things]
    for i, predicate, j in graph.links:
        found[i].append((j, predicate, True))
        found[j].append((i, predicate, False))
    return found


@lru_cache(maxsize=2)
def described(graph: Graph) -> dict[Description, tuple[int, ...]]:
    """Which things each description fits."""
    fits: dict[Description, tuple[int, ...]] = {}
    for i in range(len(graph.things)):
        for each in descriptions(graph, i):
            fits[each] = (*fits.get(each, ()), i)
    return fits


def _related(graph: Graph, things: Sequence[int]) -> bool:
    return any(_neighbours(graph)[i] for i in things)


def objects_asked(graph: Graph) -> dict[Description, tuple[str, ...]]:
    """The labels of all that each description fits, if one of it is related to anything."""
    return {
        each: tuple(dict.fromkeys(graph.things[i].label for i in things))
        for each, things in described(graph).items()
        if _related(graph, things)
    }


def attributes_asked(graph: Graph) -> dict[tuple[Description, str], tuple[str, ...]]:
    """By description and type: the attributes of that type of all that it fits; it tells none of the type itself."""
    found: dict[tuple[Description, str], tuple[str, ...]] = {}
    for i, thing in enumerate(graph.things):
        for kind, values in by_type(thing.attributes).items():
            for each in descriptions(graph, i, without=kind):
                if _related(graph, described(graph)[each]):
                    known = found.get((each, kind), ())
                    found[each, kind] = (*known, *(value for value in values if value not in known))
    return found


def relations_asked(
    graph: Graph,
) -> Iterator[tuple[int, int, tuple[str, ...], list[Description], list[Description]]]:
    """Related things, their relations, and the descriptions that mean each of the two alone, without the other."""
    together: dict[tuple[int, int], tuple[str, ...]] = {}
    for i, predicate, j in graph.links:
        together[i, j] = (*together.get((i, j), ()), predicate)
    for (i, j), predicates in together.items():
        first, second = (
            sorted(each for each in descriptions(graph, a, but=(b,)) if len(described(graph)[each]) == 1)
            for a, b in ((i, j), (j, i))
        )
        if first and second:
            yield i, j, predicates, first, second


def _drawn(graph: Graph, keys: Sequence[object], rng: np.random.Generator) -> list[int]:
    """Places of up to ``MOST`` descriptions. None where things are hardly seen, for these might fit as well."""
    if graph.unsure:
        return []
    return sorted(rng.choice(len(keys), MOST, replace=False)) if len(keys) > MOST else list(range(len(keys)))


@generator(
    "scene_graph_object_qa",
    "scene graph",
    "what is the {reference}?",
    "[name|tell me|identify] the {reference}.",
)
def scene_graph_object_qa(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    found = list(objects_asked(graph).items())
    out = []
    for n in _drawn(graph, found, rng):
        each, labels = found[n]
        wrong = some(list(graph.counts), rng, but=labels)
        about = tuple(f"object {label}" for label in labels)
        out.append(Fact({"reference": each.text()}, labels, one_of(labels, rng), wrong, about))
    return out


@generator(
    "scene_graph_attribute_qa",
    "scene graph",
    "what is the {type} of the {reference}?",
    "[name|tell me] the {type} of the {reference}.",
)
def scene_graph_attribute_qa(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    found = list(attributes_asked(graph).items())
    out = []
    for n in _drawn(graph, found, rng):
        (each, kind), values = found[n]
        wrong = some(known.attributes.get(kind, ()), rng, but=values)
        words = {"type": "attribute" if kind == OTHER else kind, "reference": each.text()}
        about = tuple(f"attribute {value}" for value in values)
        out.append(Fact(words, values, one_of(values, rng), wrong, about))
    return out


@generator(
    "scene_graph_relation_qa",
    "scene graph",
    "what is the [relation|relationship] of the {first} to the {second}?",
    "how is the {first} related to the {second}?",
    "[name|tell me] the [relation|relationship] of the {first} to the {second}.",
)
def scene_graph_relation_qa(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    """One fact for each two things, by descriptions drawn at random; the authors write out every two descriptions."""
    if graph.unsure:
        return []
    out = []
    for _, _, predicates, first, second in relations_asked(graph):
        a, b = first[int(rng.integers(len(first)))], second[int(rng.integers(len(second)))]
        wrong = some(known.relations, rng, but=predicates)
        about = tuple(f"relation {each}" for each in predicates)
        words = {"first": a.text(), "second": b.text()}
        out.append(Fact(words, predicates, one_of(predicates, rng), wrong, about))
    return out
