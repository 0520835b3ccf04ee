"""Statistics as functions of weights: means, ratios, group scores, medians, and sums of these.

A statistic is bound once to the clusters (images) of its rows and then maps multiplicities of clusters to
values, so that one engine serves the bootstrap and the permutation test of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np

Bound = Callable[[np.ndarray], np.ndarray]
"""Weights [draws, clusters] -> values [draws]."""

LESS_IS_BETTER = ("nats_per_token", "median_rank", "distance", "unparsed", "broken_off", "repetitive")
"""How the names of such metrics end."""


class Statistic(Protocol):
    @property
    def rows(self) -> np.ndarray:
        """Rows of the table that count."""
        ...

    @property
    def proportion(self) -> bool:
        """Whether every value is 0 or 1."""
        ...

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        """The statistic as a function of weights over ``m`` clusters; ``clusters`` codes each table row."""
        ...


@dataclass(frozen=True)
class Ratio:
    """sum(numerators) / sum(denominators) over rows; nan where no weight is left."""

    rows: np.ndarray
    numerators: np.ndarray
    denominators: np.ndarray
    proportion: bool = False

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        code = clusters[self.rows]
        top = np.bincount(code, self.numerators, m)
        bottom = np.bincount(code, self.denominators, m)
        return lambda weights: _divide(weights @ top, weights @ bottom)


def mean(values: np.ndarray, rows: np.ndarray | None = None) -> Ratio:
    """The mean over items (not over clusters)."""
    values = np.asarray(values, float)
    return Ratio(_rows(values, rows), values, np.ones(len(values)), _binary(values))


@dataclass(frozen=True)
class GroupMean:
    """The mean over groups (classes) of each group's mean; a group without weight does not count."""

    rows: np.ndarray
    values: np.ndarray
    groups: np.ndarray

    @property
    def proportion(self) -> bool:
        return _binary(self.values)

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        group = codes(self.groups)[0]
        pairs, pair = np.unique(group.astype(np.int64) * m + clusters[self.rows], return_inverse=True)
        starts = np.flatnonzero(np.diff(pairs // m, prepend=-1))
        top, bottom = np.bincount(pair, self.values), np.bincount(pair)

        def value(weights: np.ndarray) -> np.ndarray:
            weights = weights[:, pairs % m]
            tops = np.add.reduceat(weights * top, starts, axis=1)
            bottoms = np.add.reduceat(weights * bottom, starts, axis=1)
            return _divide(np.where(bottoms > 0, _divide(tops, bottoms), 0).sum(1), (bottoms > 0).sum(1))

        return value


def group_mean(values: np.ndarray, groups: np.ndarray, rows: np.ndarray | None = None) -> GroupMean:
    values = np.asarray(values, float)
    return GroupMean(_rows(values, rows), values, np.asarray(groups))


@dataclass(frozen=True)
class Median:
    """The lower weighted median."""

    rows: np.ndarray
    values: np.ndarray
    proportion: bool = False

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        order = np.argsort(self.values, kind="stable")
        code, sorted_values = clusters[self.rows][order], self.values[order]

        def value(weights: np.ndarray) -> np.ndarray:
            mass = np.cumsum(weights[:, code], axis=1)
            return sorted_values[np.argmax(mass >= mass[:, -1:] / 2, axis=1)]

        return value


def median(values: np.ndarray, rows: np.ndarray | None = None) -> Median:
    return Median(_rows(values, rows), np.asarray(values, float))


@dataclass(frozen=True)
class Combination:
    """A weighted sum of statistics, divided by ``over``: an average of recalls, a paired contrast."""

    parts: tuple[Statistic, ...]
    coefficients: tuple[float, ...]
    rows: np.ndarray
    proportion: bool = False
    over: int = 1
    difference: bool = False
    """Whether it is that of two proportions."""

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        bound = [part.bind(clusters, m) for part in self.parts]

        def value(weights: np.ndarray) -> np.ndarray:
            terms = (c * part(weights) for c, part in zip(self.coefficients, bound, strict=True))
            return np.sum(list(terms), axis=0) / self.over

        return value


def average(parts: Sequence[Statistic]) -> Combination:
    rows = reduce(np.union1d, [part.rows for part in parts])
    proportion = all(part.proportion for part in parts)
    return Combination(tuple(parts), (1.0,) * len(parts), rows, proportion, over=len(parts))


def contrast(a: Statistic, b: Statistic) -> Combination:
    """a - b, for two statistics of the same items."""
    return Combination((a, b), (1.0, -1.0), a.rows, difference=a.proportion and b.proportion)


def codes(column: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes [n] of a column's values in sorted order, and how many distinct ones there are."""
    order = {value: code for code, value in enumerate(sorted(set(column.tolist())))}
    return np.fromiter((order[value] for value in column.tolist()), np.int64, len(column)), len(order)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b != 0)


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _rows(values: Any, rows: np.ndarray | None) -> np.ndarray:
    return np.arange(len(values)) if rows is None else rows
