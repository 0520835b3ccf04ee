"""The one form that scene graphs of all origins are brought into, and the check that they can be believed.

A sample's ``graph`` is laid out as in Visual Genome (Krishna et al. 2017): ``width``, ``height``, ``objects`` with
``object_id``, ``names``, ``attributes`` and a box ``x y w h`` in pixels, and ``relationships`` with ``predicate``,
``subject_id`` and ``object_id``. Beside it the sample may have ``depth`` [H, W] and ``instances`` [H, W], in which i
+ 1 is the i-th object; an object's ``pixel_coords`` may end in its own distance, as CLEVR's do. Graphs come from
files, so all of it is doubted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample
from oculex.data.decode import Encoded
from oculex.data.decode_media import metres

Box = tuple[float, float, float, float]
Link = tuple[int, str, int]
"""``things[subject]`` is ``predicate`` ``things[object]``."""

MOST_THINGS = 1000
MOST_LINKS = 20_000
LONGEST = 100
"""Characters of a label, an attribute or a predicate."""


@dataclass(frozen=True)
class Thing:
    label: str
    box: Box | None = None
    """x0 y0 x1 y1 in pixels; None where nobody says where it is."""
    attributes: tuple[str, ...] = ()
    """Each once, in the order they are told."""
    distance: float | None = None
    """From the camera, told of the thing as a whole; larger is farther, in any unit."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Of a picture. Equal to itself alone, so that what is found out about it can be remembered."""

    key: str
    """Names the picture in errors."""
    width: float
    height: float
    things: tuple[Thing, ...]
    links: tuple[Link, ...] = ()
    depth: np.ndarray | None = field(default=None, repr=False)
    """float32 [H, W]: larger is farther, in any unit; NaN where unknown."""
    segments: np.ndarray | None = field(default=None, repr=False)
    """int [H, W]: 0 is none of the things, i + 1 is thing i."""
    unsure: frozenset[str] = frozenset()
    """Labels of things that are there and hardly seen: they are neither counted nor referred to by these words."""

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(thing.label for thing in self.things)

    def alone(self, i: int) -> bool:
        """Whether its label means thing ``i`` and no other."""
        label = self.things[i].label
        return self.counts[label] == 1 and label not in self.unsure

    @cached_property
    def spread(self) -> float:
        """How far apart the nearest and the farthest known point of the picture are; 0 where no distance is known."""
        known: Any = self.depth[np.isfinite(self.depth)] if self.depth is not None else None
        if known is None or not known.size:
            known = np.array([t.distance for t in self.things if t.distance is not None])
        return float(known.max() - known.min()) if known.size else 0.0

    @cached_property
    def distances(self) -> tuple[float | None, ...]:
        """Of each thing: its own, or the depth that most of its pixels have."""
        return tuple(
            thing.distance if thing.distance is not None else self._mode(i)
            for i, thing in enumerate(self.things)
        )

    def _mode(self, i: int) -> float | None:
        if self.depth is None or self.segments is None:
            return None
        inside = self.depth[self.segments == i + 1]
        values, times = np.unique(inside[np.isfinite(inside)], return_counts=True)
        return float(values[np.argmax(times)]) if len(values) else None


def graph_of(sample: Sample, classes: Sequence[str] = ()) -> Graph:
    """The graph of a sample; of one with boxes alone that of its objects, which ``box_labels`` name by ``classes``.

    Raises BadSample where it has neither, or a graph that contradicts itself.
    """
    key = str(sample.get("id", ""))
    tree = sample.get("graph")
    if tree is None and classes and "boxes" in sample and "box_labels" in sample:
        return _of_boxes(sample, classes, key)
    if not isinstance(tree, Mapping):
        raise BadSample(key, "has no scene graph")
    try:
        return _graph(tree, sample, key)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadSample(
            key, f"its scene graph is broken: {type(error).__name__}: {str(error)[:100]}"
        ) from error


def _graph(tree: Mapping[str, Any], sample: Sample, key: str) -> Graph:
    width, height = _number(tree["width"], "width"), _number(tree["height"], "height")
    if not (0 < width < 1e6 and 0 < height < 1e6):
        raise ValueError(f"a picture of {width:g} times {height:g} pixels")
    told, links = _listed(tree["objects"], MOST_THINGS, "objects"), tree.get("relationships") or ()
    things: list[Thing] = []
    place: dict[Any, int] = {}
    rank: dict[Any, int] = {}
    unsure: set[str] = set()
    for n, each in enumerate(told):
        number = each.get("object_id", n)
        if number in rank:
            raise ValueError(f"object_id {number!r} is there twice")
        rank[number] = n
        thing = _thing(each, width, height)
        if each.get("visible", True):
            place[number] = len(things)
            things.append(thing)
        else:
            unsure.add(thing.label)
    kept = []
    for each in _listed(links, MOST_LINKS, "relationships"):
        subject, other = each["subject_id"], each["object_id"]
        if subject not in rank or other not in rank:
            raise ValueError(
                f"a relationship to object_id {(other if subject in rank else subject)!r}, which is not there"
            )
        if subject in place and other in place and subject != other:
            kept.append((place[subject], _word(each["predicate"], "predicate"), place[other]))
    depth, segments = _depth(sample.get("depth"), key), _segments(sample.get("instances"), len(told), key)
    if segments is not None:  # things that are hardly seen have no number of their own
        table = np.zeros(len(told) + 1, np.int32)
        for number, new in place.items():
            table[rank[number] + 1] = new + 1
        segments = table[segments]
    if depth is not None and segments is not None and depth.shape != segments.shape:
        raise ValueError(f"depth of {depth.shape} and instances of {segments.shape} pixels")
    return Graph(
        key, width, height, tuple(things), tuple(dict.fromkeys(kept)), depth, segments, frozenset(unsure)
    )


def _of_boxes(sample: Sample, classes: Sequence[str], key: str) -> Graph:
    """Boxes that are ignored (crowds, and what is too hard to see), or of no class, are things that are not sure."""
    width, height = Encoded(sample["image"], key).size
    labels, boxes = sample["box_labels"], np.asarray(sample["boxes"], float)
    ignored = sample.get("box_ignored", np.zeros(len(labels), bool))
    names = [_word(classes[label], "class") if label >= 0 else "" for label in labels]
    things = tuple(
        Thing(name, (box[0], box[1], box[2], box[3]))
        for name, box, left in zip(names, boxes.tolist(), ignored, strict=True)
        if name and not left
    )
    unsure = frozenset(name for name, left in zip(names, ignored, strict=True) if left and name)
    return Graph(key, width, height, things, unsure=unsure)


def _thing(told: Mapping[str, Any], width: float, height: float) -> Thing:
    names = told.get("names") or told.get("name")
    label = _word(names[0] if isinstance(names, Sequence) and not isinstance(names, str) else names, "name")
    attributes = [
        _word(each, "attribute") for each in _listed(told.get("attributes") or (), 100, "attributes")
    ]
    coordinates = told.get("pixel_coords")
    distance = _number(coordinates[2], "distance") if coordinates is not None else None
    return Thing(label, _box(told, width, height), tuple(dict.fromkeys(attributes)), distance)


def _box(told: Mapping[str, Any], width: float, height: float) -> Box | None:
    if "x" not in told and "w" not in told:
        return None
    x, y = _number(told["x"], "x"), _number(told["y"], "y")
    w, h = _number(told.get("w", told.get("width")), "w"), _number(told.get("h", told.get("height")), "h")
    if w < 0 or h < 0:
        raise ValueError(f"a box of {w:g} times {h:g} pixels")
    slack = 0.05 * max(width, height) + 1  # Visual Genome's boxes reach a few pixels beyond their pictures
    if x < -slack or y < -slack or x + w > width + slack or y + h > height + slack:
        raise ValueError(f"a box at {x:g}, {y:g} of {w:g} times {h:g} pixels leaves the picture")
    edge = lambda value, most: min(max(value, 0.0), most)  # noqa: E731
    return edge(x, width), edge(y, height), edge(x + w, width), edge(y + h, height)


def _word(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {type(value).__name__}, not text")
    word = " ".join(value.split()).lower()
    if not word or len(word) > LONGEST or not word.isprintable():
        raise ValueError(f"{what} {word[:40]!r} is empty, too long or not printable")
    word.encode("utf-8")
    return word


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} is {type(value).__name__}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}")
    return number


def _listed(value: Any, most: int, what: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{what} is {type(value).__name__}, not a list")
    if len(value) > most:
        raise ValueError(f"{len(value):,} {what}, over the limit of {most:,}")
    return value


def _depth(value: Any, key: str) -> np.ndarray | None:
    if value is None:
        return None
    depth = metres(value, key).astype(np.float32)
    if depth.ndim != 2:
        raise ValueError(f"depth of {depth.ndim} dimensions")
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)


def _segments(value: Any, things: int, key: str) -> np.ndarray | None:
    if value is None:
        return None
    segments = np.asarray(value)
    if segments.ndim != 2 or not np.issubdtype(segments.dtype, np.integer):
        raise TypeError(f"instances are {segments.dtype} of {segments.ndim} dimensions, not a map of numbers")
    if segments.size and (segments.min() < 0 or segments.max() > things):
        raise ValueError(f"instances name object {int(segments.max())} of {things}")
    return segments.astype(np.int64)
