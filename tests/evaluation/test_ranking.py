"""Z-scores and rank correlations against scipy and sums by hand; intervals that follow from items and seeds."""

import numpy as np
import pytest

from oculex.evaluation.ranking import (
    Setting,
    agreement,
    kendall,
    mean_agreement,
    mean_z,
    places,
    rank,
    spearman,
    z_scores,
)
from oculex.evaluation.records import Table, concat

stats = pytest.importorskip("scipy.stats", reason="parity needs scipy")


def test_scores_are_scipys():
    values = np.random.default_rng(0).normal(size=(3, 7, 4))
    np.testing.assert_allclose(z_scores(values), stats.zscore(values, axis=1), atol=1e-12)
    np.testing.assert_allclose(mean_z(values), stats.zscore(values, axis=1).mean(-1), atol=1e-12)


def test_a_missing_value_counts_nowhere():
    values = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 7.0]])
    scores = z_scores(values)
    np.testing.assert_allclose(scores[:, 0], stats.zscore([1, 2, 3]))
    np.testing.assert_allclose(scores[[0, 2], 1], [-1, 1])
    assert np.isnan(scores[1, 1])
    np.testing.assert_allclose(
        mean_z(values), [(scores[0, 0] - 1) / 2, 0, (scores[2, 0] + 1) / 2], atol=1e-12
    )


def test_equal_values_say_nothing():
    assert (z_scores(np.full((4, 1), 0.3)) == 0).all()


def test_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.integers(0, 5, (2, 8)).astype(float)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
        assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_places_share_what_is_equal():
    assert places(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [1.5, 4, 1.5, 3]


def test_the_mean_agreement_leaves_the_diagonal_out():
    values = np.array([[1.0, 1.0, 4.0], [2.0, 2.0, 3.0], [3.0, 3.0, 2.0], [4.0, 4.0, 1.0]])
    assert agreement(values)[0, 2] == pytest.approx(-1)
    assert mean_agreement(values) == pytest.approx((1 - 1 - 1) / 3)


SETTINGS = [
    Setting("a, frozen", "frozen", "toy", "classify", "top1"),
    Setting("b, frozen", "frozen", "toy", "probe", "top1"),
]


def records(share, task, items, seed):
    """Answers of which a share is right, on the items of ``items``."""
    right = np.random.default_rng(seed).random(items) < share
    ids = [f"i{n}" for n in range(items)]
    status = np.where(right, "right", "wrong").tolist()
    return Table.of(set="toy", task=task, item=ids, cluster=ids, model="m", prompt="", control="", output='{"of": 2}',
                    parsed="", truth="x", score=np.where(right, 1.0, 2.0), status=status)  # fmt: skip


def tables(shares, items=200, seeds=3):
    return {
        name: {"frozen": [concat([records(share, task, items, [n, s, t]) for t, task in enumerate(("classify", "probe"))])
                          for s in range(seeds)]}
        for n, (name, share) in enumerate(shares.items())
    }  # fmt: skip


def test_the_better_backbone_is_first_and_the_interval_says_how_surely():
    clear = rank(tables({"good": 0.9, "fair": 0.7, "poor": 0.4}), SETTINGS, draws=200)
    assert clear.score["good"].low > clear.score["fair"].high > clear.score["poor"].high
    assert clear.best["good"] == 1.0
    assert clear.place["poor"].value == 3
    assert clear.mean_agreement["spearman"].value == 1.0
    close = rank(tables({"good": 0.52, "fair": 0.5, "poor": 0.5}, items=40, seeds=1), SETTINGS, draws=200)
    assert max(close.best.values()) < 0.95
    assert close.score["good"].low < close.score["fair"].high


def test_values_are_means_over_seeds_and_their_intervals_hold_both():
    found = rank(tables({"one": 0.5, "two": 0.6}), SETTINGS, draws=200)
    e = found.values["two"]["a, frozen"]
    own = [
        float((t.select(task="classify")["status"] == "right").mean())
        for t in tables({"one": 0.5, "two": 0.6})["two"]["frozen"]
    ]
    assert e.value == pytest.approx(np.mean(own))
    assert e.n == 200
    assert e.low < e.value < e.high


def test_equal_calls_give_equal_rankings():
    first, again = (rank(tables({"one": 0.5, "two": 0.6}), SETTINGS, draws=50) for _ in range(2))
    assert first == again
