"""From curves to a verdict, without a single run."""

import math

import pytest

from oculex.claims.verdict import better, difference, ratio, reached, samples_to, verdict
from oculex.contracts import Arm, Claim
from oculex.evaluation.statistics import Estimate

CLAIM = Claim("c", "", "", (Arm("a", "m"),), "a", "a", measure="samples_to", threshold=0.5)


@pytest.mark.parametrize(
    ("curve", "samples"),
    [
        ([(100, 0.2), (200, 0.4), (300, 0.6)], 250),
        ([(100, 0.2), (200, 0.5), (300, 0.6)], 200),
        ([(100, 1.0), (200, 1.0)], 50),  # from nothing at 0 samples
        ([(100, 0.2), (200, 0.8), (300, 0.1)], 150),  # the first time counts
        ([(100, 0.2), (200, 0.4)], 200),  # never: its whole budget
        ([(100, 0.5)], 100),
    ],
)
def test_samples_are_read_between_evaluations(curve, samples):
    assert samples_to(curve, CLAIM) == pytest.approx(samples)


def test_a_curve_that_falls_back_has_reached_it_and_one_below_has_not():
    assert reached([(1, 0.6), (2, 0.3)], CLAIM)
    assert not reached([(1, 0.49), (2, 0.4999)], CLAIM)


def test_among_curves_that_never_reach_it_the_higher_is_better():
    slow, fast = [(100, 0.1), (200, 0.3)], [(100, 0.1), (200, 0.4)]
    there = [(100, 0.1), (200, 0.5)]
    assert better(fast, slow, CLAIM)
    assert better(there, fast, CLAIM)
    assert better([(100, 0.6), (200, 0.6)], there, CLAIM)
    assert not better(slow, slow, CLAIM)


def test_effects_are_paired_by_seed():
    """What a seed makes easy for both arms cancels: these seeds differ by far more than the arms do."""
    effect = difference([(0.31, 0.30), (0.52, 0.51), (0.83, 0.82)])
    assert effect.value == pytest.approx(0.01)
    assert effect.high - effect.low < 1e-9
    crossed = difference([(0.31, 0.82), (0.52, 0.30), (0.83, 0.51)])
    assert crossed.value == pytest.approx(0.01)
    assert crossed.low < 0 < crossed.high


def test_a_ratio_is_symmetric():
    pairs = [(100.0, 400.0), (200.0, 400.0), (100.0, 300.0)]
    ours, other = ratio(pairs), ratio([(b, a) for a, b in pairs])
    assert ours.value == pytest.approx(1 / other.value)
    assert ours.low == pytest.approx(1 / other.high)
    assert ours.value == pytest.approx((4 * 2 * 3) ** (1 / 3))
    assert ours.n == 3


def test_one_seed_proves_nothing():
    alone = ratio([(100.0, 900.0)])
    assert alone.value == pytest.approx(9.0)
    assert (alone.low, alone.high) == (0.0, math.inf)
    assert verdict(alone, 1.0) == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "at_least", "silent", "said"),
    [
        (1.2, 3.0, 1.0, 0, "holds"),
        (0.9, 3.0, 1.0, 0, "inconclusive"),
        (0.2, 0.9, 1.0, 0, "does not hold at this scale"),
        (1.0, 3.0, 1.0, 0, "inconclusive"),  # the bound itself is not beyond
        (1.0, 1.0, 1.0, 0, "inconclusive"),
        (-0.02, -0.01, 0.0, 0, "does not hold at this scale"),
        (1.2, 3.0, 1.0, 1, "inconclusive"),  # in one seed neither arm got there
    ],
)
def test_the_whole_interval_decides(low, high, at_least, silent, said):
    assert verdict(Estimate((low + high) / 2, low, high, 3), at_least, silent) == said
