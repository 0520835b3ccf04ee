"""Pictures that are searched: their vectors, and where each is in its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oculex import embeddings
from oculex.contracts import (
    BadSample,
    EncodesImages,
    EncodesText,
    RepresentsImages,
    Sample,
    Source,
    UserError,
)
from oculex.data.sources import open_source
from oculex.data.views import captions
from oculex.evaluation.gallery import thumbnail
from oculex.serve.opened import Opened, pixels

MOST = 500
"""Held-out pictures that are searched where no others are named."""


@dataclass(frozen=True)
class Shelf:
    source: Source
    places: Sequence[int]
    """Of each row, in the source."""
    values: np.ndarray
    """Unit norm, float32 [n, D]."""

    def __len__(self) -> int:
        return len(self.places)

    def nearest(self, vector: np.ndarray, k: int) -> list[dict[str, Any]]:
        """The k rows of the largest cosine similarity: [{"id", "score", "caption", "image"}], the image a thumbnail as a
        data URI, empty where the sample has none or it cannot be read."""
        scores = self.values @ (vector / np.linalg.norm(vector))
        return [self._hit(int(row), float(scores[row])) for row in np.argsort(-scores)[:k]]

    def _hit(self, row: int, score: float) -> dict[str, Any]:
        try:
            sample: Mapping[str, Any] = self.source[self.places[row]]
            image = thumbnail(pixels(sample), 224) if "image" in sample else ""
        except BadSample as bad:
            sample, image = {"id": bad.key}, ""
        texts = captions(sample)
        return {"id": str(sample["id"]), "score": score, "caption": texts[0] if texts else "", "image": image}


class _Numbered:
    """A source whose samples are named by their place in it."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.classes = source, source.name, source.classes

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} by number"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Sample:
        return {**self.source[index], "id": str(index)}


def searches(system: Any) -> bool:
    """Whether pictures can be searched: by text, or by another picture."""
    return isinstance(system, (EncodesImages, RepresentsImages))


def by_text(system: Any) -> bool:
    return isinstance(system, EncodesImages) and isinstance(system, EncodesText)


def shelf(opened: Opened, images: str = "", index: Path | None = None) -> Shelf | None:
    """What the page searches: the pictures of a source, those of an index, or else what the run's data held out.

    None where the system does not encode pictures and none were named, or nothing was held out. Raises UserError for
    pictures that are named to a system that cannot search them, and for another run's index.
    """
    if not searches(opened.system):
        if images or index is not None:
            raise UserError(
                f"{opened.name} does not encode images, so there is nothing to search; leave them out"
            )
        return None
    if index is not None:
        return _indexed(opened, index)
    if images:
        return _encoded(opened, open_source(images), None)
    return _encoded(opened, opened.held_out, MOST) if opened.held_out and opened.examples("image") else None


def _indexed(opened: Opened, index: Path) -> Shelf:
    facts, values = embeddings.open_index(index)
    if Path(facts["run"]) != opened.folder.path.resolve():
        raise UserError(
            f"{index} was made by {facts['run']}; serve that run, or index the images with this one"
        )
    source = open_source(facts["images"])
    if len(source) != len(facts["ids"]):
        raise UserError(f"{facts['images']} has changed since {index} was made; make the index again")
    return Shelf(source, range(len(source)), values)


def _encoded(opened: Opened, source: Source, limit: int | None) -> Shelf:
    embedder = opened.embedder(limit)
    encode = embedder.images if isinstance(opened.system, EncodesImages) else embedder.represent
    found = encode(_Numbered(source))
    if not len(found.items):
        raise UserError(f"{source.name} has no image that can be read; name other images")
    values = found.values / np.linalg.norm(found.values, axis=1, keepdims=True).clip(1e-12)
    return Shelf(source, [int(name) for name in found.ids], values)
