"""Which points belong to the same thing (ProVision's segmentation generators)."""

from __future__ import annotations

import math

import numpy as np

from oculex.data.graphs.depths import TRIES, point
from oculex.data.graphs.facts import Fact, Known, generator
from oculex.data.graphs.schema import Graph


def three_points(inside: np.ndarray, rng: np.random.Generator) -> tuple[str, str, str] | None:
    """(anchor, a point of the same thing, one outside it as far from the anchor), bool [H, W]; none that ``TRIES`` find.

    As far, so that how near two points lie tells nothing.
    """
    rows, columns = np.nonzero(inside)
    height, width = inside.shape
    first = int(rng.integers(len(rows)))
    anchor = point(int(rows[first]), int(columns[first]), inside.shape)
    for _ in range(TRIES):
        second = int(rng.integers(len(rows)))
        same = point(int(rows[second]), int(columns[second]), inside.shape)
        if same == anchor:
            continue
        reach = math.hypot(rows[first] - rows[second], columns[first] - columns[second])
        for _ in range(TRIES):
            angle = 2 * math.pi * rng.random()
            row = int(rows[first]) + int(math.sin(angle) * reach)
            column = int(columns[first]) + int(math.cos(angle) * reach)
            if not (0 <= row < height and 0 <= column < width) or inside[row, column]:
                continue
            other = point(row, column, inside.shape)
            if other not in (anchor, same):
                return anchor, same, other
    return None


def _drawn(graph: Graph, rng: np.random.Generator) -> list[tuple[str, str, str]]:
    if graph.segments is None:
        return []
    found = (three_points(graph.segments == n, rng) for n in np.unique(graph.segments) if n > 0)
    return [points for points in found if points]


def _fact(anchor: str, right: str, wrong: str) -> Fact:
    first, second = sorted((right, wrong))
    words = {"choices": (right, wrong), "first": first, "second": second, "anchor": anchor}
    return Fact(words, (right,), right, (wrong,), ())


@generator(
    "same_object_seg",
    "segmentation",
    "[among|of|out of] {choices}, which point [lies on|belongs to|is part of] the same object as {anchor}?",
    "which point [lies on|belongs to|is part of] the same object as {anchor}, {first} or {second}?",
    "[name|tell me] the point on the same object as {anchor}, [among|out of] {choices}.",
)
def same_object_seg(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return [_fact(anchor, same, other) for anchor, same, other in _drawn(graph, rng)]


@generator(
    "diff_object_seg",
    "segmentation",
    "[among|of|out of] {choices}, which point does not [lie on|belong to] the same object as {anchor}?",
    "which point is not part of the same object as {anchor}, {first} or {second}?",
    "[name|tell me] the point that is not on the same object as {anchor}, [among|out of] {choices}.",
)
def diff_object_seg(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    return [_fact(anchor, other, same) for anchor, same, other in _drawn(graph, rng)]
