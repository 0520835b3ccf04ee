"""From learning curves to a verdict: what each run reached, how the arms compare seed by seed, what follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from oculex.contracts import Arm, Claim
from oculex.evaluation.ranking import mean_agreement
from oculex.evaluation.statistics import Estimate, over_seeds

Curve = list[tuple[float, float]]
"""[(samples seen, metric)] of one run, in order."""
Pairs = Sequence[tuple[float, float]]
"""(treatment, control), seed by seed."""


def final(curve: Curve, claim: Claim) -> float:
    return curve[-1][1]


def samples_to(curve: Curve, claim: Claim) -> float:
    """Samples at which the metric first reaches the threshold: linear between evaluations, and from 0 to the first.

    A run that never reaches it counts with its whole budget, which is a lower bound.
    """
    before = (0.0, 0.0)
    for samples, value in curve:
        if value >= claim.threshold:
            share = (claim.threshold - before[1]) / max(value - before[1], 1e-12)
            return before[0] + max(0.0, min(1.0, share)) * (samples - before[0])
        before = (samples, value)
    return curve[-1][0]


def reached(curve: Curve, claim: Claim) -> bool:
    return any(value >= claim.threshold for _, value in curve)


def better(a: Curve, b: Curve, claim: Claim) -> bool:
    """Whether curve a is better than b by the claim's own measure; where the measures are equal, by the last metric."""
    sign = SIGNS[claim.measure]
    of = MEASURES[claim.measure]
    return (sign * of(a, claim), a[-1][1]) > (sign * of(b, claim), b[-1][1])


def difference(pairs: Pairs) -> Estimate:
    return over_seeds([treatment - control for treatment, control in pairs])


def ratio(pairs: Pairs) -> Estimate:
    """Control over treatment ("times fewer"), as a geometric mean: ratios are symmetric on the log scale."""
    log = over_seeds([math.log(control / treatment) for treatment, control in pairs])
    return Estimate(_exp(log.value), _exp(log.low), _exp(log.high), log.n)


def pairs(values: Mapping[str, Sequence[float]], claim: Claim) -> Pairs:
    """What is compared, seed by seed. (t - c) - (t' - c') is (t - t') - (c - c'), so the arms of ``minus`` are taken off
    the claim's own."""
    sides = [values[claim.treatment], values[claim.control]]
    if claim.minus:
        sides = [
            [a - b for a, b in zip(side, values[name], strict=True)]
            for side, name in zip(sides, claim.minus, strict=True)
        ]
    return list(zip(*sides, strict=True))


def correlation(values: Mapping[str, Sequence[float]], claim: Claim) -> Estimate:
    """How alike the metrics of a claim order its candidates, the mean of Spearman's correlation over any two metrics.

    ValueError where a candidate has not each metric once.
    """
    candidates = list(dict.fromkeys(_candidate(claim, arm) for arm in claim.arms))
    metrics = list(dict.fromkeys(arm.metric for arm in claim.arms))
    at = {(_candidate(claim, arm), arm.metric): arm.name for arm in claim.arms}
    if len(at) < len(claim.arms) or len(at) < len(candidates) * len(metrics):
        raise ValueError(f"claim {claim.name}: every candidate needs an arm for each of {', '.join(metrics)}")
    tables = np.array([[values[at[candidate, metric]] for metric in metrics] for candidate in candidates])
    return over_seeds([float(mean_agreement(tables[..., seed])) for seed in range(tables.shape[2])])


def _candidate(claim: Claim, arm: Arm) -> str:
    """What an arm is trained as, which several arms can share."""
    first = next(each for each in claim.arms if each.name == (arm.weights_of or arm.name))
    return repr((first.system, first.preset, sorted(first.set.items()), first.starts_from))


def verdict(effect: Estimate, at_least: float, silent: int = 0) -> str:
    """Holds where the whole interval lies beyond ``at_least``, does not where it lies below.

    ``silent`` seeds in which neither arm reached the threshold say nothing of the ratio, so then nothing is concluded.
    """
    if silent or effect.low <= at_least <= effect.high:
        return "inconclusive"
    return "holds" if effect.low > at_least else "does not hold at this scale"


def _exp(log: float) -> float:
    return math.inf if log > 700 else math.exp(log)


MEASURES: dict[str, Callable[[Curve, Claim], float]] = {
    "final": final,
    "final_loss": final,
    "samples_to": samples_to,
}
SIGNS = {"final": 1, "final_loss": -1, "samples_to": -1}
"""Whether more of a measure is better."""
COMPARISONS: dict[str, Callable[[Mapping[str, Sequence[float]], Claim], Estimate]] = {
    "difference": lambda values, claim: difference(pairs(values, claim)),
    "ratio": lambda values, claim: ratio(pairs(values, claim)),
    "rank_correlation": correlation,
}
"""From each arm's values, seed by seed, to the effect."""
