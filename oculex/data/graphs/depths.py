"""What is nearer and what is farther (ProVision's depth generators, of points and of objects).

Larger depth is farther throughout. The authors' are so for points alone: what their objects' generators call closer has
the larger value, as in the nearness maps that their pipeline makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from oculex.data.graphs.facts import Fact, Known, generator
from oculex.data.graphs.objects import apart
from oculex.data.graphs.schema import Graph

CLEARLY = 50 / 255
"""Least difference, as a share of how deep the picture is; the authors' is 50 of a map's 255 steps."""
TRIES = 10
_FROM_HERE = "[| in depth| to the camera| to the viewer]"


def point(row: int, column: int, shape: tuple[int, ...]) -> str:
    """x, y as shares of the picture's width and height."""
    return str((round(column / shape[1], 2), round(row / shape[0], 2)))


def _points(graph: Graph, rng: np.random.Generator) -> tuple[str, str] | None:
    """(nearer, farther) of two random points; none where ``TRIES`` draws show no clear difference."""
    depth = graph.depth
    if depth is None or graph.spread <= 0:
        return None
    for _ in range(TRIES):
        rows, columns = rng.integers(depth.shape[0], size=2), rng.integers(depth.shape[1], size=2)
        a, b = float(depth[rows[0], columns[0]]), float(depth[rows[1], columns[1]])
        names = [point(int(r), int(c), depth.shape) for r, c in zip(rows, columns, strict=True)]
        if names[0] != names[1] and abs(a - b) >= CLEARLY * graph.spread:  # which unknown depth never is
            return (names[0], names[1]) if a < b else (names[1], names[0])
    return None


def _of_two(what: str, nearer: str) -> tuple[str, ...]:
    return (
        f"[among|of|out of] {{choices}}, which {what} is [{nearer}]{_FROM_HERE}?",
        f"which {what} is [{nearer}]{_FROM_HERE}, {{first}} or {{second}}?",
        f"[name|tell me] the {nearer.split('|')[0]} {what}, [among|out of] {{choices}}.",
    )


def _compared(right: str, wrong: str, about: tuple[str, ...], **words: str) -> Fact:
    first, second = sorted((right, wrong))  # an order that tells nothing of the answer
    told = {"choices": (right, wrong), "first": first, "second": second, **words}
    return Fact(told, (right,), right, (wrong,), about)


@generator("closer_point", "depth", *_of_two("point", "closer|nearer"))
def closer_point(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    found = _points(graph, rng)
    return [_compared(found[0], found[1], ())] if found else []


@generator("farther_point", "depth", *_of_two("point", "farther|more distant"))
def farther_point(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    found = _points(graph, rng)
    return [_compared(found[1], found[0], ())] if found else []


def _groups(graph: Graph, many: int) -> Iterator[tuple[int, ...]]:
    """Things with known distances whose boxes do not overlap; where there are no boxes, any."""
    if all(thing.box is None for thing in graph.things):
        fit = [i for i in range(len(graph.things)) if graph.alone(i)]
        groups: Iterator[tuple[int, ...]] = combinations(fit, many)
    else:
        groups = apart(graph, many)
    return (group for group in groups if all(graph.distances[i] is not None for i in group))


def _pairs(graph: Graph) -> Iterator[tuple[int, int]]:
    """(nearer, farther)."""
    if graph.spread <= 0:
        return
    for i, j in _groups(graph, 2):
        a, b = graph.distances[i], graph.distances[j]
        if abs(a - b) >= CLEARLY * graph.spread:  # type: ignore[operator]
            yield (i, j) if a < b else (j, i)  # type: ignore[operator]


def _anchored(graph: Graph, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """(anchor, closer to it in depth, farther from it) of three things, where the middle one is clearly nearer to one."""
    if graph.spread <= 0:
        return
    for group in _groups(graph, 3):
        near, middle, far = sorted(group, key=lambda i: graph.distances[i])  # type: ignore[arg-type, return-value]
        steps = [graph.distances[b] - graph.distances[a] for a, b in ((near, middle), (middle, far))]  # type: ignore[operator]
        if abs(steps[0] - steps[1]) < CLEARLY * graph.spread:
            continue
        lone, ends = (near, (far, middle)) if steps[0] > steps[1] else (far, (near, middle))
        anchor, closer = ends if rng.random() < 0.5 else ends[::-1]
        yield anchor, closer, lone


@generator("closer_object", "object depth", *_of_two("object", "closer|nearer"))
def closer_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return [_labels(graph, nearer, farther) for nearer, farther in _pairs(graph)]


@generator("farther_object", "object depth", *_of_two("object", "farther|more distant"))
def farther_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return [_labels(graph, farther, nearer) for nearer, farther in _pairs(graph)]


def _labels(graph: Graph, right: int, wrong: int) -> Fact:
    a, b = graph.things[right].label, graph.things[wrong].label
    return _compared(a, b, (f"object {a}", f"object {b}"))


def _to_anchor(nearer: str) -> tuple[str, ...]:
    return (
        f"[among|of|out of] {{choices}}, which object is [{nearer}] the {{anchor}} in depth?",
        f"which object is [{nearer}] the {{anchor}} in depth, {{first}} or {{second}}?",
        f"[name|tell me] the object that is {nearer.split('|')[0]} the {{anchor}} in depth, [among|out of] {{choices}}.",
    )


@generator("closer_to_anchor_object", "object depth", *_to_anchor("closer to|nearer to"))
def closer_to_anchor_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return [_of_three(graph, anchor, closer, farther) for anchor, closer, farther in _anchored(graph, rng)]


@generator("farther_to_anchor_object", "object depth", *_to_anchor("farther from|more distant from"))
def farther_to_anchor_object(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return [_of_three(graph, anchor, farther, closer) for anchor, closer, farther in _anchored(graph, rng)]


def _of_three(graph: Graph, anchor: int, right: int, wrong: int) -> Fact:
    names = [graph.things[i].label for i in (anchor, right, wrong)]
    return _compared(names[1], names[2], tuple(f"object {name}" for name in names), anchor=names[0])
