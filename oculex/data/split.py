"""Held-out data: a fixed, keyed choice of samples that training never sees."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from oculex.contracts import Sample, Source, UserError
from oculex.data.order import Permutation

LIMIT = 5000
_KEY = 0x5011


@runtime_checkable
class HasHeldOut(Protocol):
    """A source that knows its own test split, as the embedded world does."""

    def held_out(self) -> Source: ...


@runtime_checkable
class Divides(Protocol):
    """A source whose samples belong together in groups, such as steps of an episode, which no split may part."""

    def divide(self, share: float) -> tuple[Source, Source | None]: ...


class Subset:
    """Samples ``first`` to ``past`` of a source in a pseudo-random order, which ``key`` fixes."""

    def __init__(self, source: Source, first: int, past: int, key: int = _KEY) -> None:
        self.source, self.first, self.past, self.key = source, first, past, key
        self.name, self.classes = source.name, source.classes
        self._permutation = Permutation(len(source), key)

    def fingerprint(self) -> str:
        order = "" if self.key == _KEY else f" by {self.key:x}"
        return f"{self.source.fingerprint()}[{self.first}:{self.past}]{order}"

    def __len__(self) -> int:
        return self.past - self.first

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[self._permutation(self.first + index)]


def split(source: Source, share: float) -> tuple[Source, Source | None]:
    """(training part, held-out part). The split depends on the number of samples alone, not on any seed.

    Samples are grouped by image before this, so captions of one image never fall on both sides.
    """
    if not 0 <= share < 1:
        raise UserError(f"data.holdout is a share from 0 up to 1, got {share}")
    if isinstance(source, HasHeldOut):
        return source, source.held_out()
    if isinstance(source, Divides):
        return source.divide(share)
    held = min(round(len(source) * share), LIMIT)
    if share > 0 and held == 0:
        held = min(1, len(source) - 1)
    if held == 0:
        return source, None
    return Subset(source, held, len(source)), Subset(source, 0, held)
