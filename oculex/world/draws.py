"""Random draws: of scenes by key, the same on every machine, in every process, for every version of NumPy; of words by
NumPy's generators."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of uniform numbers, a function of its key alone.

    Only raw Philox doubles are used, whose bits the algorithm fixes, never NumPy's distributions, which may
    change between versions. They are drawn in blocks, since a scene needs some hundred.
    """

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
        self._bits = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8")))
        self._block: list[float] = []

    def unit(self) -> float:
        """In [0, 1)."""
        if not self._block:
            self._block = self._bits.random(128).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def below(self, n: int) -> int:
        return int(self.unit() * n)

    def chance(self, p: float) -> bool:
        return self.unit() < p

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.unit() * len(items))]

    def normal(self) -> float:
        return math.sqrt(-2.0 * math.log(1.0 - self.unit())) * math.cos(2.0 * math.pi * self.unit())


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of what may be said."""
    return items[int(rng.integers(len(items)))]
