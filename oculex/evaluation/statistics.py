"""Intervals for every number an evaluation reports, from one resampling engine.

A statistic is a function of weights. It is bound once to the rows of a table and to their clusters (images),
and then maps multiplicities of clusters, weights [draws, clusters], to values [draws]. Weights that are drawn
with replacement give the cluster bootstrap; the same function with the two tables' weights swapped at random
gives the permutation test of a paired difference. So means, ratios, group scores and medians share one
engine.

Intervals are percentile intervals with Hesterberg's small-sample expansion (What Teachers Should Know About
the Bootstrap, The American Statistician 69(4), 2015): the tail probability is Phi(-sqrt(n/(n-1)) t_{n-1})
instead of alpha/2. Where a proportion does not vary at all (0 % or 100 %) the interval is Wilson's, with n
clusters, and where a difference of two does not, as wide as Wilson's at 0 to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import atan, cos, inf, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

from oculex.evaluation.measures import Bound, Statistic, codes, mean

CHUNK = 1 << 21
"""Weights held at a time."""
TINY = 1e-9
"""What rounding can add to a difference that is none."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``n`` items went into it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference; ``p`` is two-sided, ``n`` counts the common items."""

    p: float


# ------------------------------------------------------------------------------------------- estimates


def interval(
    values: np.ndarray,
    clusters: np.ndarray,
    statistic: Callable[..., Statistic] = mean,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``statistic(values)`` with its interval; ``values`` [n], ``clusters`` [n] of any sortable type."""
    return intervals({"": statistic(np.asarray(values))}, clusters, level, draws, seed)[""]


def intervals(
    statistics: Mapping[str, Statistic],
    clusters: np.ndarray,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every statistic of a table under the same draws; independent of the order of the rows."""
    code, m = codes(clusters)
    bound = {name: statistic.bind(code, m) for name, statistic in statistics.items()}
    drawn = _evaluate(bound, _multiplicities(m, draws, np.random.default_rng(seed)))
    whole = np.ones((1, m))
    out = {}
    for name, statistic in statistics.items():
        value, n = float(bound[name](whole)[0]), len(statistic.rows)
        seen = len(np.unique(code[statistic.rows]))
        low, high = _percentiles(drawn[name], seen, level)
        still = high - low < TINY or seen < 2
        if statistic.proportion and still:
            low, high = wilson(value, seen, level)
        elif still and getattr(statistic, "difference", False):
            slack = wilson(0.0, seen, level)[1]
            low, high = max(value - slack, -1.0), min(value + slack, 1.0)
        out[name] = Estimate(value, min(low, value), max(high, value), n)
    return out


def paired(
    statistics: Mapping[str, Statistic],
    clusters: np.ndarray,
    ours: np.ndarray,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Our model minus theirs, resampling both alike, for their records of common items in one table.

    ``statistics`` are those of the whole table; ``ours`` [rows] is true where a row is our model's.
    p: share of random swaps of the two models, image by image, with a difference at least as large.
    """
    code, m = codes(clusters)
    joint = code + m * ~ours
    bound = {name: statistic.bind(joint, 2 * m) for name, statistic in statistics.items()}

    def difference(function: Bound) -> Bound:
        def value(weights: np.ndarray) -> np.ndarray:
            return function(weights) - function(np.roll(weights, m, axis=1))

        return value

    differences = {name: difference(function) for name, function in bound.items()}
    rng, nothing = np.random.default_rng(seed), np.zeros((1, m))
    drawn = _evaluate(differences, (np.hstack([w, 0 * w]) for w in _multiplicities(m, draws, rng)))
    swapped = _evaluate(differences, _swaps(m, draws, rng))
    out = {}
    for name, statistic in statistics.items():
        value = float(differences[name](np.hstack([nothing + 1, nothing]))[0])
        seen = len(np.unique(code[statistic.rows]))
        low, high = _percentiles(drawn[name], seen, level)
        if statistic.proportion and (high - low < TINY or seen < 2):
            slack = wilson(0.0, seen, level)[1]
            low, high = max(-1.0, value - slack), min(1.0, value + slack)
        extreme = np.abs(swapped[name]) >= abs(value) - TINY
        p = float((1 + extreme.sum()) / (1 + draws))
        out[name] = Difference(value, min(low, value), max(high, value), len(statistic.rows) // 2, p)
    return out


def redrawn(
    statistic: Statistic, clusters: np.ndarray, draws: int = 2000, seed: int | Sequence[int] = 0
) -> tuple[float, np.ndarray]:
    """A statistic, and what it is in each of the draws [draws] of its table's clusters. Equal seeds draw equally where
    there are as many clusters, so values of several models can be compared draw by draw."""
    code, m = codes(clusters)
    bound = {"": statistic.bind(code, m)}
    rng = np.random.default_rng(seed)
    return float(bound[""](np.ones((1, m)))[0]), _evaluate(bound, _multiplicities(m, draws, rng))[""]


def over_seeds(values: Sequence[float], level: float = 0.95) -> Estimate:
    """The mean over training seeds with Student's t interval; unbounded for a single seed."""
    n, value = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(value, -inf, inf, n)
    half = _t(1 - (1 - level) / 2, n - 1) * float(np.std(values, ddof=1)) / sqrt(n)
    return Estimate(value, value - half, value + half, n)


def wilson(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 22, 1927)."""
    z2 = NormalDist().inv_cdf(1 - (1 - level) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


# -------------------------------------------------------------------------------------------- engine


def _multiplicities(m: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of m clusters is drawn in m draws with replacement: chunks [d, m]."""
    for d in _chunks(m, draws):
        drawn = rng.integers(0, m, (d, m)) + m * np.arange(d)[:, None]
        yield np.bincount(drawn.ravel(), minlength=d * m).reshape(d, m).astype(float)


def _swaps(m: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for d in _chunks(m, draws):
        keep = rng.integers(0, 2, (d, m)).astype(float)
        yield np.hstack([keep, 1 - keep])


def _chunks(m: int, draws: int) -> Iterator[int]:
    step = max(1, CHUNK // max(m, 1))
    for start in range(0, draws, step):
        yield min(step, draws - start)


def _evaluate(bound: Mapping[str, Bound], weights: Iterator[np.ndarray]) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in bound}
    for chunk in weights:
        for name, function in bound.items():
            parts[name].append(function(chunk))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _percentiles(drawn: np.ndarray, n: int, level: float) -> tuple[float, float]:
    if n < 2:
        return -inf, inf
    tail = NormalDist().cdf(-sqrt(n / (n - 1)) * _t(1 - (1 - level) / 2, n - 1))
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _t(probability: float, freedom: int) -> float:
    """Quantile (above the median) of Student's t; Abramowitz and Stegun 26.7.3, 26.7.4 and 26.7.5."""
    z = NormalDist().inv_cdf(probability)
    if freedom > 200:
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)

    def central(t: float) -> float:
        angle = atan(t / sqrt(freedom))
        odd = freedom % 2
        k = np.arange(1, (freedom - odd) // 2 + (1 - odd))
        powers = np.cumprod((2 * k - 1 + odd) / (2 * k + odd) * cos(angle) ** 2)
        if odd:
            tail = sin(angle) * cos(angle) * (1 + powers[: (freedom - 3) // 2].sum()) if freedom > 1 else 0.0
            return 2 / pi * (angle + tail)
        return sin(angle) * (1 + powers[: freedom // 2 - 1].sum())

    low, high = 0.0, 1.0
    while central(high) < 2 * probability - 1:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if central(middle) < 2 * probability - 1 else (low, middle)
    return high
