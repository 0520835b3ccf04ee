"""Who is best over many tasks, and whether tasks agree: z-scores and rank correlations, with intervals.

A setting is one metric under one protocol (a task, frozen or whole). In it each backbone gets the z-score of its value,
(value - mean) / standard deviation over the backbones; a backbone's score is the mean of its z-scores over settings
(Battle of the Backbones: what is measured in other units becomes comparable). The standard deviation is that
of these backbones, divided by their number; another divisor scales all scores of a setting alike.

Intervals come from one bootstrap: the items of each set are drawn with replacement, the same for all backbones, and so
are seeds; every value, z-score, place and correlation is computed again in each draw. So they say what other items and
other seeds would change, given these backbones; a correlation over few backbones is no more general than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oculex.evaluation.measures import LESS_IS_BETTER
from oculex.evaluation.protocol import TASKS
from oculex.evaluation.records import Table
from oculex.evaluation.statistics import Estimate, redrawn

DRAWS = 1000
LEVEL = 0.95


def z_scores(values: np.ndarray) -> np.ndarray:
    """[..., backbones, settings]: each setting over its backbones; NaN where there is no value, 0 where all are equal."""
    there = np.isfinite(values)
    count = there.sum(-2, keepdims=True)
    known = np.where(there, values, 0.0)
    middle = _over(known.sum(-2, keepdims=True), count)
    off = np.where(there, values - middle, 0.0)
    spread = np.sqrt(_over((off**2).sum(-2, keepdims=True), count))
    equal = spread <= 1e-12 * np.maximum(np.abs(middle), 1.0)
    return np.where(there, np.where(equal, 0.0, _over(off, np.broadcast_to(spread, off.shape))), np.nan)


def mean_z(values: np.ndarray) -> np.ndarray:
    """[..., backbones]: the mean of each one's z-scores over the settings in which it has a value."""
    scores = z_scores(values)
    there = np.isfinite(scores)
    return _over(np.where(there, scores, 0.0).sum(-1), there.sum(-1), np.nan)


def places(scores: np.ndarray) -> np.ndarray:
    """[..., n] places from 1, the largest first; equal ones share the mean of theirs."""
    larger = (scores[..., None, :] > scores[..., :, None]).sum(-1)
    equal = (scores[..., None, :] == scores[..., :, None]).sum(-1)
    return 1 + larger + (equal - 1) / 2


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation over the last axis: Pearson's, of places; NaN where all of one are equal."""
    x, y = (places(each) - (each.shape[-1] + 1) / 2 for each in (a, b))
    return _over((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)), np.nan)


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b over the last axis; NaN where all of one are equal."""
    x, y = (np.sign(each[..., :, None] - each[..., None, :]) for each in (a, b))
    pairs = np.sqrt((x * x).sum((-1, -2)) * (y * y).sum((-1, -2)))
    return _over((x * y).sum((-1, -2)), pairs, np.nan)


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"spearman": spearman, "kendall": kendall}


def agreement(values: np.ndarray, kind: str = "spearman") -> np.ndarray:
    """[..., settings, settings] rank correlations of [..., backbones, settings] between any two settings."""
    columns = np.swapaxes(values, -1, -2)
    return KINDS[kind](columns[..., :, None, :], columns[..., None, :, :])


def mean_agreement(values: np.ndarray, kind: str = "spearman") -> np.ndarray:
    """[...]: the mean correlation of any two different settings of [..., backbones, settings]."""
    matrix = agreement(values, kind)
    above = np.triu_indices(matrix.shape[-1], 1)
    return np.nanmean(matrix[..., above[0], above[1]], axis=-1)


# ---------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Setting:
    """A column of the comparison: which records, and which metric of them."""

    name: str
    group: str
    """Which runs it is read off, where a backbone has several (frozen, or whole on one task)."""
    set: str
    task: str
    metric: str

    @property
    def full(self) -> str:
        """As evaluations name it."""
        return f"{self.set}/{self.task}/{self.metric}"


@dataclass(frozen=True)
class Ranking:
    """All as JSON can hold it, bounds of the interval beside each value."""

    settings: list[Setting]
    backbones: list[str]
    values: dict[str, dict[str, Estimate]]
    """Of each backbone and setting, over items and seeds."""
    z: dict[str, dict[str, float]]
    score: dict[str, Estimate]
    place: dict[str, Estimate]
    best: dict[str, float]
    """Share of the draws in which each has the highest score."""
    agreement: dict[str, list[list[Estimate]]]
    """By kind of rank correlation: [settings][settings]."""
    mean_agreement: dict[str, Estimate]


Tables = Mapping[str, Mapping[str, Sequence[Table]]]
"""Records by backbone and group, one table for each seed."""


def rank(tables: Tables, settings: Sequence[Setting], draws: int = DRAWS, seed: int = 0) -> Ranking:
    """The ranking of backbones from the records of their runs. ``settings`` of which less is better count reversed."""
    names, rng = list(tables), np.random.default_rng(seed)
    seeds = max(len(each) for groups in tables.values() for each in groups.values())
    which = rng.integers(0, seeds, (draws, seeds))
    observed = np.full((len(names), len(settings)), np.nan)
    drawn = np.full((draws, len(names), len(settings)), np.nan)
    counts = np.zeros((len(names), len(settings)), int)
    for column, setting in enumerate(settings):
        entropy = [seed, *setting.set.encode()]
        for row, name in enumerate(names):
            whole, samples, count = _sampled(tables[name][setting.group], setting, entropy, draws)
            observed[row, column], counts[row, column] = whole.mean(), count
            chosen = which % len(whole)
            drawn[:, row, column] = np.take_along_axis(samples.T, chosen, axis=1).mean(1)
    sign = np.array([-1.0 if setting.full.endswith(LESS_IS_BETTER) else 1.0 for setting in settings])
    better, redrawn = sign * observed, sign * drawn
    scores, again = mean_z(better), mean_z(redrawn)
    own, placed = places(scores), places(again)
    z = z_scores(better)
    return Ranking(
        list(settings),
        names,
        {
            name: {
                s.name: _interval(observed[r, c], drawn[:, r, c], counts[r, c])
                for c, s in enumerate(settings)
            }
            for r, name in enumerate(names)
        },
        {name: {s.name: float(z[r, c]) for c, s in enumerate(settings)} for r, name in enumerate(names)},
        {name: _interval(scores[r], again[:, r], len(settings)) for r, name in enumerate(names)},
        {name: _interval(own[r], placed[:, r], len(settings)) for r, name in enumerate(names)},
        dict(zip(names, _firsts(again).tolist(), strict=True)),
        {kind: _matrix(better, redrawn, kind) for kind in KINDS},
        {
            kind: _interval(float(mean_agreement(better, kind)), mean_agreement(redrawn, kind), len(names))
            for kind in KINDS
        },
    )


def _sampled(
    found: Sequence[Table], setting: Setting, entropy: list[int], draws: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(values [seeds], values [seeds, draws], items) of one backbone's metric; the draws of items are the same for all
    who answered the same items."""
    values, samples, n = list[float](), list[np.ndarray](), 0
    for table in found:
        part = table.select(set=setting.set, task=setting.task)
        statistic = TASKS[setting.task].statistics(part)[setting.metric]
        value, drawn = redrawn(statistic, part["cluster"], draws, entropy)
        values.append(value)
        samples.append(drawn)
        n = len(statistic.rows)
    return np.array(values), np.stack(samples), n


def _interval(value: float, drawn: np.ndarray, n: int) -> Estimate:
    tail = (1 - LEVEL) / 2
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(known):
        return Estimate(float(value), -np.inf, np.inf, int(n))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)), int(n))


def _firsts(scores: np.ndarray) -> np.ndarray:
    """How often each is first, shared where several are."""
    top = scores == scores.max(-1, keepdims=True)
    return (top / top.sum(-1, keepdims=True)).mean(0)


def _matrix(values: np.ndarray, drawn: np.ndarray, kind: str) -> list[list[Estimate]]:
    whole, again = agreement(values, kind), agreement(drawn, kind)
    n = values.shape[0]
    return [
        [_interval(whole[i, j], again[:, i, j], n) for j in range(whole.shape[1])]
        for i in range(whole.shape[0])
    ]


def _over(a: np.ndarray, b: np.ndarray, missing: float = 0.0) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), missing), where=b != 0)
