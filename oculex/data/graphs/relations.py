"""How things stand to each other (ProVision's relation generators)."""

from __future__ import annotations

import numpy as np

from oculex.data.graphs.attributes import region
from oculex.data.graphs.facts import Fact, Known, generator, one_of, some
from oculex.data.graphs.schema import Graph


def _together(graph: Graph) -> dict[tuple[int, int], tuple[str, ...]]:
    """All that relates one thing to another."""
    found: dict[tuple[int, int], tuple[str, ...]] = {}
    for subject, predicate, other in graph.links:
        found[subject, other] = (*found.get((subject, other), ()), predicate)
    return found


def _about(graph: Graph, i: int, j: int, predicates: tuple[str, ...]) -> tuple[str, ...]:
    labels = (f"object {graph.things[i].label}", f"object {graph.things[j].label}")
    return (*labels, *(f"relation {each}" for each in predicates))


@generator(
    "exists_relation",
    "relation",
    "what is the [relation|relationship] [of|from] the {first} to the {second}?",
    "how is the {first} related to the {second}?",
    "[describe|tell me|name] the [relation|relationship] of the {first} to the {second}.",
)
def exists_relation(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    """Of things that their labels alone tell apart."""
    out = []
    for (i, j), predicates in _together(graph).items():
        if graph.alone(i) and graph.alone(j):
            words = {"first": graph.things[i].label, "second": graph.things[j].label}
            wrong = some(known.relations, rng, but=predicates)
            right = one_of(predicates, rng)
            out.append(Fact(words, predicates, right, wrong, _about(graph, i, j, predicates)))
    return out


@generator(
    "relation_bbox",
    "relation",
    "what is the [relation|relationship] of the object at {first} to the one at {second}?",
    "how is the object at {first} related to the [one|object] at {second}?",
    "[describe|tell me|name] the [relation|relationship] of the object at {first} to the one at {second}.",
)
def relation_bbox(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    out = []
    for (i, j), predicates in _together(graph).items():
        a, b = graph.things[i].box, graph.things[j].box
        if a is not None and b is not None:
            words = {"first": region(a, graph), "second": region(b, graph)}
            wrong = some(known.relations, rng, but=predicates)
            right = one_of(predicates, rng)
            out.append(Fact(words, predicates, right, wrong, _about(graph, i, j, predicates)))
    return out


@generator(
    "head_relation",
    "relation",
    "[among|of|out of] {choices}, which [one |]is {relation} the {other}?",
    "which [one |]is {relation} the {other}, [among|out of] {choices}?",
    "[name|tell me] the one that is {relation} the {other}, [among|out of] {choices}.",
)
def head_relation(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    """Wrong answers are labels of which no thing has this relation to anything of that label."""
    heads: dict[tuple[str, str], tuple[str, ...]] = {}
    for i, predicate, j in graph.links:
        key, label = (graph.things[j].label, predicate), graph.things[i].label
        heads[key] = tuple(dict.fromkeys((*heads.get(key, ()), label)))
    labels = [each for each in graph.counts if each not in graph.unsure]
    out = []
    for (other, predicate), right in heads.items():
        wrong_ones = [each for each in labels if each not in right and each != other]
        for name in right:
            wrong = some(wrong_ones, rng)
            if wrong and other not in graph.unsure:
                words = {"choices": (name, *wrong), "relation": predicate, "other": other}
                about = (f"object {name}", f"object {other}", f"relation {predicate}")
                out.append(Fact(words, (name,), name, wrong, about))
    return out
