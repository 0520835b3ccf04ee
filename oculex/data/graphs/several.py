"""Questions about several pictures together: which one, what is common, how they differ (ProVision's multi-image ones).

Pictures are called Image 0, Image 1, ... in the order in which they are shown, as the authors call them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np

from oculex.data.graphs.facts import CHOICES, Fact, Known, generator, one_of, some
from oculex.data.graphs.objects import numbers
from oculex.data.graphs.schema import Graph
from oculex.data.graphs.words import countable, listed, plural

Graphs = Sequence[Graph]


def image(n: int) -> str:
    return f"Image {n}"


def _sure(graphs: Graphs, label: str) -> bool:
    """Whether no picture has a thing of this label that is hardly seen."""
    return not any(label in graph.unsure for graph in graphs)


def _labels(graphs: Graphs) -> list[str]:
    """All, in the order in which they are met."""
    return [
        label
        for label in dict.fromkeys(each for graph in graphs for each in graph.counts)
        if _sure(graphs, label)
    ]


def _shared(graphs: Graphs) -> list[str]:
    return [label for label in _labels(graphs) if all(graph.counts[label] for graph in graphs)]


def _attributes(graph: Graph, label: str) -> Counter[str]:
    """How many things of a label have each attribute."""
    return Counter(word for thing in graph.things if thing.label == label for word in thing.attributes)


def _which(graphs: Graphs, n: int, about: tuple[str, ...], **words: str) -> Fact:
    right = image(n)
    return Fact(words, (right,), right, tuple(image(m) for m in range(len(graphs)) if m != n), about)


def _only(held: Sequence[bool], true: bool = True) -> int | None:
    """The one place that is ``true`` where all others are not."""
    places = [n for n, each in enumerate(held) if each == true]
    return places[0] if len(places) == 1 else None


# ------------------------------------------------------------------------------------------------- select


@generator("has_object", "select", "which [image|picture] [has|contains|shows] {object}?")
def has_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_objects(graphs, True)


@generator(
    "has_not_object",
    "select",
    "which [image|picture] [has no|contains no|does not show any] {object}?",
    shares="label",
)
def has_not_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_objects(graphs, False)


def _of_objects(graphs: Graphs, true: bool) -> list[Fact]:
    out = []
    for label in _labels(graphs):
        n = _only([graph.counts[label] > 0 for graph in graphs], true)
        if n is not None:
            out.append(_which(graphs, n, (f"object {label}",), object=label))
    return out


@generator(
    "has_attributed_object",
    "select",
    "which [image|picture] [has|contains|shows] {attribute} {object}?",
    shares="label",
)
def has_attributed_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_attributes(graphs, True)


@generator(
    "has_not_attributed_object",
    "select",
    "which [image|picture] [has no|contains no|does not show any] {attribute} {object}?",
    shares="label",
)
def has_not_attributed_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_attributes(graphs, False)


def _of_attributes(graphs: Graphs, true: bool) -> list[Fact]:
    """Of labels that all pictures have; with two pictures one asks of what the other one has not."""
    out = []
    for label in _shared(graphs):
        found = [_attributes(graph, label) for graph in graphs]
        for word in dict.fromkeys(each for counts in found for each in counts):
            n = _only([counts[word] > 0 for counts in found], true)
            if n is not None:
                about = (f"object {label}", f"attribute {word}")
                out.append(_which(graphs, n, about, object=label, attribute=word))
    return out


@generator(
    "has_relation",
    "select",
    "in which [image|picture] is {first} {relation} {second}?",
    "which [image|picture] shows {first} {relation} {second}?",
    shares="pair",
)
def has_relation(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_relations(graphs, True)


@generator(
    "has_not_relation",
    "select",
    "in which [image|picture] is {first} not {relation} {second}?",
    "which [image|picture] does not show {first} {relation} {second}?",
    shares="pair",
)
def has_not_relation(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_relations(graphs, False)


def _predicates(graph: Graph) -> dict[tuple[str, str], tuple[str, ...]]:
    """All that relates things of one label to things of another."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for i, predicate, j in graph.links:
        pair = graph.things[i].label, graph.things[j].label
        found[pair] = tuple(dict.fromkeys((*found.get(pair, ()), predicate)))
    return found


def _related(graphs: Graphs) -> list[tuple[tuple[str, str], list[tuple[str, ...]]]]:
    """Labels that are related in all pictures, and by what in each."""
    found = [_predicates(graph) for graph in graphs]
    return [
        (pair, [each[pair] for each in found])
        for pair in found[0]
        if all(pair in each for each in found) and all(_sure(graphs, label) for label in pair)
    ]


def _of_relations(graphs: Graphs, true: bool) -> list[Fact]:
    """Of labels that are related in every picture, so that the others show them too and not so."""
    out = []
    for (first, second), found in _related(graphs):
        for predicate in dict.fromkeys(word for words in found for word in words):
            n = _only([predicate in words for words in found], true)
            if n is not None:
                about = (f"object {first}", f"object {second}", f"relation {predicate}")
                out.append(_which(graphs, n, about, first=first, second=second, relation=predicate))
    return out


@generator(
    "has_most_object",
    "select",
    "which [image|picture] [has|contains|shows] the most {objects}?",
    shares="label",
)
def has_most_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_counts(graphs, np.argmax)


@generator(
    "has_least_object",
    "select",
    "which [image|picture] [has|contains|shows] the fewest {objects}?",
    shares="label",
)
def has_least_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _of_counts(graphs, np.argmin)


def _of_counts(graphs: Graphs, best: Callable[..., np.intp]) -> list[Fact]:
    """Of labels that every picture has, each another number of times."""
    out = []
    for label in _shared(graphs):
        counts = [graph.counts[label] for graph in graphs]
        if countable(label) and len(set(counts)) == len(counts):
            out.append(_which(graphs, int(best(counts)), (f"object {label}",), objects=plural(label)))
    return out


# ----------------------------------------------------------------------------------------------- aggregate

_ALL = "[in all of these images|in all of these pictures]"
_TOGETHER = "[in these images|in these pictures together|across these images]"


@generator(
    "common_object",
    "aggregate",
    f"[what|which] objects [appear|can be seen] {_ALL}?",
    "what [objects |]do these images have in common?",
    "[name|list] the objects that are common to these images.",
    shares="label",
)
def common_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    shared = _shared(graphs)
    wrong = some(_labels(graphs), rng, but=shared)
    if not shared or not wrong or any(graph.unsure for graph in graphs):
        return []
    return [Fact({}, tuple(shared), one_of(shared, rng), wrong, tuple(f"object {label}" for label in shared))]


@generator(
    "common_attribute",
    "aggregate",
    f"what [attribute|property] do [the |]{{objects}} share {_TOGETHER}?",
    "what is [the common attribute|common to the attributes] of the {objects} in these images?",
    "[name|tell me] what is alike about the {objects} in these images.",
    shares="label",
)
def common_attribute(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    out = []
    for label in _shared(graphs):
        found = [_attributes(graph, label) for graph in graphs]
        words = list(dict.fromkeys(each for counts in found for each in counts))
        shared = tuple(word for word in words if all(counts[word] for counts in found))
        wrong = some(words, rng, but=shared)
        if shared and wrong:
            about = (f"object {label}", *(f"attribute {word}" for word in shared))
            out.append(Fact({"objects": plural(label)}, shared, one_of(shared, rng), wrong, about))
    return out


_HOW_MANY = (
    f"[|can you tell ]how many {{name}} [are there|can be seen] {_TOGETHER}?",
    f"what is the [number|quantity] of {{name}} {_TOGETHER}?",
    f"[give|state] the [number|quantity] of {{name}} {_TOGETHER}.",
)


@generator("count_object", "aggregate", *_HOW_MANY, shares="label")
def count_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    out = []
    for label in _shared(graphs):
        if countable(label):
            total = sum(graph.counts[label] for graph in graphs)
            right, wrong = numbers(total, rng)
            out.append(
                Fact({"name": plural(label)}, (right,), right, wrong, (f"object {label}", f"count {total}"))
            )
    return out


@generator("count_attribute_object", "aggregate", *_HOW_MANY, shares="label")
def count_attribute_object(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    """Of attributes that more than one of these things has."""
    out = []
    for label in _shared(graphs):
        totals: Counter[str] = sum((_attributes(graph, label) for graph in graphs), Counter())
        for word, total in totals.items():
            if countable(label) and total > 1:
                right, wrong = numbers(total, rng)
                about = (f"object {label}", f"attribute {word}", f"count {total}")
                out.append(Fact({"name": f"{word} {plural(label)}"}, (right,), right, wrong, about))
    return out


# ------------------------------------------------------------------------------------------------- compare


def _told(told: Sequence[frozenset[str]], sentence: str) -> str:
    """What is true in each picture, one after the other."""
    parts = [sentence.format(listed(sorted(words))) + f" in {image(n)}" for n, words in enumerate(told)]
    return ", ".join(parts)


def _difference(
    told: Sequence[frozenset[str]], sentence: str, rng: np.random.Generator
) -> tuple[str, tuple[str, ...]] | None:
    """The true sentence, and those in which the pictures' truths are swapped; none where two pictures have the same."""
    if not all(told) or len(set(told)) < len(told):
        return None
    right = _told(told, sentence)
    others = [_told(swapped, sentence) for swapped in permutations(told) if swapped != tuple(told)]
    return right, some(others, rng, CHOICES - 1)


@generator(
    "compare_attribute",
    "compare",
    "what [is the difference between|distinguishes] the attributes of the {object} in these images?",
    "how does the {object} differ [between|across] these images?",
    "[describe|tell me] how the {object} differs [between|across] these images.",
    shares="label",
)
def compare_attribute(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    """Of what there is one of in each picture."""
    out = []
    for label in _shared(graphs):
        if any(graph.counts[label] > 1 for graph in graphs):
            continue
        told = [frozenset(_attributes(graph, label)) for graph in graphs]
        found = _difference(told, "{}", rng)
        if found:
            words = sorted(frozenset().union(*told))
            about = (f"object {label}", *(f"attribute {word}" for word in words))
            right, wrong = (f"{label} is {found[0]}", tuple(f"{label} is {each}" for each in found[1]))
            out.append(Fact({"object": label}, (right,), right, wrong, about))
    return out


@generator(
    "compare_relation",
    "compare",
    "what is the difference [of|in] the [relation|relationship] of the {first} to the {second} in these images?",
    "how does the [relation|relationship] of the {first} to the {second} differ [between|across] these images?",
    "[describe|tell me] how the relation of the {first} to the {second} differs [between|across] these images.",
    shares="pair",
)
def compare_relation(graphs: Graphs, rng: np.random.Generator, known: Known) -> list[Fact]:
    """Of two things of which there is one each in every picture."""
    out = []
    for (first, second), found in _related(graphs):
        if any(graph.counts[label] > 1 for graph in graphs for label in (first, second)):
            continue
        sentence = "{} " + second.replace("{", "{{").replace("}", "}}")
        told = _difference([frozenset(words) for words in found], sentence, rng)
        if told:
            words = sorted({word for each in found for word in each})
            about = (f"object {first}", f"object {second}", *(f"relation {word}" for word in words))
            right, wrong = f"{first} is {told[0]}", tuple(f"{first} is {each}" for each in told[1])
            out.append(Fact({"first": first, "second": second}, (right,), right, wrong, about))
    return out
