"""Order of training: position -> sample, computed on the fly, so that the only state of the data is one integer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from oculex.contracts import UserError

_ROUNDS = 6
_MASK = 0xFFFFFFFFFFFFFFFF


def mix(*words: int) -> int:
    """A 64-bit key that depends on every word and on their order (splitmix64's finaliser, chained)."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = (state ^ (word & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 30)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def generator(*words: int) -> np.random.Generator:
    """A generator that is a function of the words alone: (seed, position) gives a sample its randomness."""
    return keyed(mix(*words))


def keyed(key: int) -> np.random.Generator:
    """The generator of a 64-bit key of ``mix``: all that has to be kept to draw the same again."""
    return np.random.Generator(np.random.Philox(key=key))


class Permutation:
    """A keyed bijection of 0..n-1 without a table.

    A Feistel network permutes the smallest even power of two that holds n; an image outside 0..n-1 is permuted
    again until it falls inside (cycle walking; fewer than four rounds on average).
    """

    def __init__(self, n: int, *key: int) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs at least one element, got {n}")
        self.n = n
        self._half = max(1, ((n - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        self._keys = [mix(*key, r) for r in range(_ROUNDS)]

    def __call__(self, index: int) -> int:
        if not 0 <= index < self.n:
            raise IndexError(f"{index} is outside 0..{self.n - 1}")
        image = self._network(index)
        while image >= self.n:
            image = self._network(image)
        return image

    def _network(self, value: int) -> int:
        left, right = value >> self._half, value & self._low
        for key in self._keys:
            word = (right ^ key) * 0xBF58476D1CE4E5B9 & _MASK
            left, right = right, left ^ ((word ^ (word >> 31)) >> 7 & self._low)
        return left << self._half | right


class Order:
    """Position -> (source, index) over several sources, for ever.

    Without weights the sources are one pool: every epoch visits every sample once. With weights each stretch of
    ``BLOCK`` positions holds its exact quota of every source, and each source runs through its own epochs.
    """

    BLOCK = 4096

    def __init__(self, lengths: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        if not lengths or min(lengths) < 1:
            raise UserError("no samples to train on: every source needs at least one")
        self.lengths, self.seed = tuple(lengths), seed
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._quota = None if weights is None else _quotas(weights, self.BLOCK)

    def epoch_length(self) -> int:
        """Samples in the pool; with weights a source may be seen more or less often than once in as many."""
        return int(self._starts[-1])

    def at(self, position: int) -> tuple[int, int]:
        """The source and the index in it at a position of training."""
        return self.drawn(position)[:2]

    def drawn(self, position: int) -> tuple[int, int, int]:
        """The source, the index in it, and how often that sample was drawn before."""
        if self._quota is None:
            epoch, within = divmod(position, self.epoch_length())
            drawn = self._permuted(self.epoch_length(), epoch, 0, within)
            source = int(np.searchsorted(self._starts, drawn, side="right")) - 1
            return source, drawn - int(self._starts[source]), epoch
        block, within = divmod(position, self.BLOCK)
        slot = self._permuted(self.BLOCK, block, 1, within)
        source = int(np.searchsorted(self._quota, slot, side="right")) - 1
        first, past = int(self._quota[source]), int(self._quota[source + 1])
        epoch, index = divmod(block * (past - first) + slot - first, self.lengths[source])
        return source, self._permuted(self.lengths[source], epoch, 2 + source, index), epoch

    def _permuted(self, n: int, epoch: int, stream: int, index: int) -> int:
        return Permutation(n, self.seed, stream, epoch)(index)


def _quotas(weights: Sequence[float], block: int) -> np.ndarray:
    """Cumulated quotas [sources + 1] of a block, by largest remainder."""
    share = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(share).all() or (share <= 0).any():
        raise UserError(f"mixture weights must be positive numbers, got {list(weights)}")
    exact = share / share.sum() * block
    if exact.min() < 1:
        raise UserError(
            f"a mixture weight below 1/{block} of the whole is never drawn; leave that source out"
        )
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: block - quota.sum()]] += 1
    return np.concatenate([[0], np.cumsum(quota)])
