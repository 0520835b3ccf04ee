"""What things are like (ProVision's attribute generators)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from oculex.data.graphs.facts import Fact, Known, generator, one_of, some
from oculex.data.graphs.objects import HOW_MANY, numbers
from oculex.data.graphs.schema import Box, Graph, Thing
from oculex.data.graphs.words import OTHER, attribute_type, countable, listed, plural


def region(box: Box, graph: Graph) -> str:
    """x0, y0, x1, y1 as shares of the picture's width and height."""
    shares = (box[0] / graph.width, box[1] / graph.height, box[2] / graph.width, box[3] / graph.height)
    return str(tuple(round(share, 2) for share in shares))


@generator("exists_attribute", "attribute", *HOW_MANY)
def exists_attribute(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    """How many have a label and these attributes; not asked where others of that label have these and more."""
    groups = Counter((thing.label, frozenset(thing.attributes)) for thing in graph.things if thing.attributes)
    out = []
    for (label, attributes), count in groups.items():
        more = any(each == label and attributes < others for each, others in groups)
        if not countable(label) or label in graph.unsure or more:
            continue
        right, wrong = numbers(count, rng)
        described = listed(sorted(attributes), rng)
        about = (f"object {label}", *(f"attribute {each}" for each in sorted(attributes)), f"count {count}")
        out.append(Fact({"name": f"{described} {plural(label)}"}, (right,), right, wrong, about))
    return out


def _placed(graph: Graph) -> Iterator[tuple[Thing, str]]:
    for thing in graph.things:
        if thing.attributes and thing.box is not None:
            yield thing, region(thing.box, graph)


@generator(
    "attribute_bbox",
    "attribute",
    "what are [the |]attributes of the {name} [at|in] [|the region ]{region}?",
    "what [describes|is true of] the {name} [at|in] [|the region ]{region}?",
    "how [can you describe|would you describe] the {name} at {region}?",
    "[describe|give the attributes of] the {name} at {region}.",
)
def attribute_bbox(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    out = []
    for thing, where in _placed(graph):
        wrong = some(known.all_attributes, rng, but=thing.attributes)
        about = (f"object {thing.label}", *(f"attribute {each}" for each in thing.attributes))
        words = {"name": thing.label, "region": where}
        out.append(Fact(words, thing.attributes, one_of(thing.attributes, rng), wrong, about))
    return out


def by_type(attributes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for each in attributes:
        kind = attribute_type(each)
        found[kind] = (*found.get(kind, ()), each)
    return found


@generator(
    "typed_attribute_bbox",
    "attribute",
    "what is the {type} of the {name} [at|in] [|the region ]{region}?",
    "what {type} [is|has] the {name} [at|in] [|the region ]{region}?",
    "[name|tell me] the {type} of the {name} at {region}.",
)
def typed_attribute_bbox(graph: Graph, rng: np.random.Generator, known: Known) -> list[Fact]:
    out = []
    for thing, where in _placed(graph):
        for kind, values in by_type(thing.attributes).items():
            if kind == OTHER:
                continue
            wrong = some(known.attributes.get(kind, ()), rng, but=values)
            about = (f"object {thing.label}", *(f"attribute {each}" for each in values))
            words = {"name": thing.label, "region": where, "type": kind}
            out.append(Fact(words, values, one_of(values, rng), wrong, about))
    return out
