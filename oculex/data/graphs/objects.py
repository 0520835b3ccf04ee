"""How many there are, what there is most of, what stands outermost (ProVision's object generators)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from oculex.data.graphs.facts import Fact, Known, generator, some
from oculex.data.graphs.schema import Box, Graph
from oculex.data.graphs.words import countable, number, plural

SIDE_BY_SIDE = 3
"""Things of which one is the outermost."""


def numbers(count: int, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A count and three wrong ones near it, all in digits or all in words."""
    values = [1, 2, 3, 4] if count == 1 else [count, count - 1, count + 1, count + 2]
    written = [str(value) if rng.random() < 0.5 else number(value) for value in values[:1]]
    digits = written[0].isdigit()
    return written[0], tuple(str(value) if digits else number(value) for value in values[1:])


HOW_MANY = (
    "[|tell me: |can you tell ]how many {name} [are there|can be seen|do you see]?",
    "what is the [number|quantity] of {name}[| in the picture]?",
    "[give|name|state] the [number|quantity] of {name}[| in the picture].",
)


@generator("exists_object", "object", *HOW_MANY)
def exists_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    out = []
    for label, count in graph.counts.items():
        if countable(label) and label not in graph.unsure:
            right, wrong = numbers(count, rng)
            name = plural(label)
            out.append(Fact({"name": name}, (right,), right, wrong, (f"object {label}", f"count {count}")))
    return out


def contains(outer: Box | None, inner: Box | None) -> bool:
    """Whether a box holds another one whole; unknown boxes hold nothing."""
    if outer is None or inner is None:
        return False
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _frequency(graph: Graph, rng: np.random.Generator, sign: int) -> list[Fact]:
    """A box around other things is a group of them, a place or a part of something else: it does not count."""
    boxes = [thing.box for thing in graph.things]
    labels = [
        thing.label
        for i, thing in enumerate(graph.things)
        if not any(j != i and contains(boxes[i], box) for j, box in enumerate(boxes))
    ]
    counts = Counter(each for each in labels if countable(each) and each not in graph.unsure)
    if len(counts) < 2:
        return []
    name = max(counts, key=lambda label: sign * counts[label])
    wrong = some([each for each in counts if sign * (counts[name] - counts[each]) > 0], rng)
    if not wrong:
        return []
    return [Fact({"choices": (name, *wrong)}, (name,), name, wrong, (f"object {name}",))]


@generator(
    "most_object",
    "object",
    "[among|of|out of] {choices}, [which|which object] is [the most frequent|there most often]?",
    "which [object |]is [seen|there] most often, [among|out of] {choices}?",
    "[name|tell me] the most frequent object [among|out of] {choices}.",
)
def most_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _frequency(graph, rng, 1)


@generator(
    "least_object",
    "object",
    "[among|of|out of] {choices}, [which|which object] is [the least frequent|there least often]?",
    "which [object |]is [seen|there] least often, [among|out of] {choices}?",
    "[name|tell me] the least frequent object [among|out of] {choices}.",
)
def least_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _frequency(graph, rng, -1)


def overlap(a: Box, b: Box, axes: tuple[int, ...] = (0, 1)) -> bool:
    """Whether two boxes share a stretch of each of the axes (0: across, 1: down); edges that touch do not."""
    return all(a[axis] < b[axis + 2] and b[axis] < a[axis + 2] for axis in axes)


def apart(graph: Graph, many: int, axes: tuple[int, ...] = (0, 1)) -> Iterator[tuple[int, ...]]:
    """Every choice of ``many`` things, each alone of its label, of whose boxes no two overlap along ``axes``."""
    fit = [i for i, thing in enumerate(graph.things) if graph.alone(i) and thing.box is not None]
    boxes = {i: graph.things[i].box for i in fit}
    clash = {
        (i, j)
        for i, j in combinations(fit, 2)
        if overlap(boxes[i], boxes[j], axes)  # type: ignore[arg-type]
    }
    for group in combinations(fit, many):
        if not any(pair in clash for pair in combinations(group, 2)):
            yield group


def _outermost(graph: Graph, axis: int, last: bool) -> list[Fact]:
    out = []
    for group in apart(graph, SIDE_BY_SIDE, (axis,)):
        edge = lambda i: graph.things[i].box[axis + 2 * last]  # type: ignore[index]  # noqa: E731
        best = max(group, key=edge) if last else min(group, key=edge)
        name = graph.things[best].label
        wrong = tuple(graph.things[i].label for i in group if i != best)
        out.append(Fact({"choices": (name, *wrong)}, (name,), name, wrong, (f"object {name}",)))
    return out


def _side(words: str, most: str) -> tuple[str, ...]:
    return (
        f"[among|of|out of] {{choices}}, which [one |]is [{words}]?",
        f"which [object |]is [{words}], [among|out of] {{choices}}?",
        f"[name|tell me] the {most} object [among|out of] {{choices}}.",
    )


@generator(
    "left_most_object", "object", *_side("farthest left|furthest to the left|on the far left", "leftmost")
)
def left_most_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _outermost(graph, 0, False)


@generator(
    "right_most_object",
    "object",
    *_side("farthest right|furthest to the right|on the far right", "rightmost"),
)
def right_most_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _outermost(graph, 0, True)


@generator("top_most_object", "object", *_side("highest up|nearest to the top|at the very top", "topmost"))
def top_most_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _outermost(graph, 1, False)


@generator(
    "bottom_most_object",
    "object",
    *_side("lowest down|nearest to the bottom|at the very bottom", "bottommost"),
)
def bottom_most_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return _outermost(graph, 1, True)
