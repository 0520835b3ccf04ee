"""What a source holds, from a look at some of its samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

from oculex.contracts import BadSample, Source
from oculex.data.decode import opened
from oculex.data.order import Permutation

LOOKED_AT = 200


def describe(source: Source) -> dict[str, Any]:
    """Counts over the source and figures over at most ``LOOKED_AT`` of its samples, spread evenly at random."""
    order, n = Permutation(len(source), 0x1A5), min(LOOKED_AT, len(source))
    keys: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    sizes, lengths, captions, example = [], [], 0, ""
    for index in range(n):
        try:
            sample = source[order(index)]
            if "image" in sample:
                sizes.append(opened(sample["image"], sample["id"]).size)
        except BadSample as error:
            bad[error.reason] += 1
            continue
        keys.update(sample.keys())
        texts = sample.get("captions") or filter(None, [sample.get("caption")])
        for text in texts:
            captions += 1
            lengths.append(len(text.split()))
            example = example or text
    return {
        "samples": len(source),
        "classes": len(source.classes),
        "looked at": n,
        "keys": dict(keys),
        "image size": _spread([min(size) for size in sizes]) | {"unit": "pixels of the shorter side"}
        if sizes
        else {},
        "captions": {"per sample": captions / max(1, keys["id"]), **_words(lengths)},
        "example": example,
        "unreadable": dict(bad),
    }


def _words(lengths: list[int]) -> dict[str, Any]:
    return {"words": _spread(lengths)} if lengths else {}


def _spread(values: list[int]) -> dict[str, float]:
    ordered = sorted(values)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]}
