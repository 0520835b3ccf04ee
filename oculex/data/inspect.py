"""What a source holds, from a look at some of its samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

from oculex.contracts import BadSample, Source, printable
from oculex.data.decode import opened
from oculex.data.order import Permutation
from oculex.data.sources.files import some
from oculex.data.views import captions

LOOKED_AT = 200


def describe(source: Source) -> dict[str, Any]:
    """Counts over the source and figures over at most ``LOOKED_AT`` of its samples, spread evenly at random."""
    order, n = Permutation(len(source), 0x1A5), min(LOOKED_AT, len(source))
    keys: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    sizes, lengths, first, example = [], [], "", ""
    for index in range(n):
        try:
            sample = source[order(index)]
            if "image" in sample:
                sizes.append(opened(sample["image"], sample["id"]).size)
        except BadSample as error:
            bad[error.reason] += 1
            first = first or str(error)
            continue
        keys.update(sample.keys())
        for text in captions(sample):
            lengths.append(len(text.split()))
            example = example or text
    shown: dict[str, Any] = {
        "samples": len(source),
        "classes": len(source.classes),
        "looked at": n,
        "keys": dict(keys),
    }
    if source.classes:
        shown["class names"] = some(source.classes)
    if sizes:
        shown["image size"] = _spread([min(size) for size in sizes]) | {"unit": "pixels of the shorter side"}
    shown["captions"] = {"per sample": len(lengths) / max(1, keys["id"])}
    if lengths:
        shown["captions"] |= {"words": _spread(lengths)}
        shown["example"] = printable(example, 200)
    shown["unreadable"] = dict(bad)
    if bad:
        shown["first unreadable"] = first
    return shown


def _spread(values: list[int]) -> dict[str, float]:
    ordered = sorted(values)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]}
