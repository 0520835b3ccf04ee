"""Intervals cover what they promise, clusters count, and paired differences are paired."""

import numpy as np
import pytest
from scipy import stats

from oculex.evaluation.measures import Ratio, average, contrast, group_mean, mean, median
from oculex.evaluation.statistics import _t, interval, intervals, over_seeds, paired, wilson


def clustered(rng, m=60, size=5, share=0.6, tight=2.0):
    """0/1 values whose chance varies between clusters; the expectation is ``share``."""
    chance = np.repeat(rng.beta(tight * share, tight * (1 - share), m), size)
    return (rng.random(m * size) < chance).astype(float), np.repeat(np.arange(m), size)


def test_coverage_on_clustered_data_and_the_naive_interval_fails():
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for seed in range(500):
        values, clusters = clustered(rng)
        good = interval(values, clusters, draws=400, seed=seed)
        bad = interval(values, np.arange(len(values)), draws=400, seed=seed)
        covered += good.low <= 0.6 <= good.high
        naive += bad.low <= 0.6 <= bad.high
    assert 0.92 <= covered / 500 <= 0.975
    assert naive / 500 < 0.85


@pytest.mark.parametrize("m", [6, 12])
def test_coverage_with_few_clusters(m):
    rng, covered = np.random.default_rng(1), 0
    for seed in range(400):
        estimate = interval(rng.standard_normal(m), np.arange(m), draws=500, seed=seed)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.985


def test_known_values():
    values, groups = np.array([1.0, 0, 0, 1, 1]), np.array(["a", "a", "a", "a", "b"])
    clusters = np.arange(5)
    assert interval(values, clusters).value == pytest.approx(0.6)
    assert interval(values, clusters, lambda v: group_mean(v, groups)).value == pytest.approx(0.75)
    assert interval(np.array([5.0, 1, 9, 3]), np.arange(4), median).value == 3
    ratio = Ratio(np.arange(3), np.array([1.0, 2, 3]), np.array([2.0, 4, 4]))
    assert intervals({"r": ratio}, np.arange(3))["r"].value == pytest.approx(0.6)
    both = average([mean(values), mean(1 - values)])
    assert intervals({"b": both}, clusters)["b"].value == pytest.approx(0.5)


def test_statistics_of_weights_equal_statistics_of_repeated_rows():
    rng = np.random.default_rng(2)
    values, groups, clusters = (
        rng.integers(0, 9, 40).astype(float),
        rng.integers(0, 4, 40),
        rng.integers(0, 10, 40),
    )
    weights = rng.integers(0, 3, 10)
    rows = np.repeat(np.arange(40), weights[clusters])
    slow_groups = np.mean([values[rows][groups[rows] == g].mean() for g in np.unique(groups[rows])])
    slow_median = np.sort(values[rows])[(len(rows) - 1) // 2]
    for statistic, slow in (
        (mean(values), values[rows].mean()),
        (group_mean(values, groups), slow_groups),
        (median(values), slow_median),
    ):
        assert statistic.bind(clusters, 10)(weights[None].astype(float))[0] == pytest.approx(slow)


def test_mean_interval_agrees_with_the_standard_error():
    rng = np.random.default_rng(3)
    values = rng.standard_normal(1000)
    found, half = interval(values, np.arange(1000), draws=4000), 1.96 * values.std(ddof=1) / 1000**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_all_right_and_all_wrong_have_an_interval():
    for share in (0.0, 1.0):
        found = interval(np.full(50, share), np.arange(50))
        low, high = stats.binomtest(int(50 * share), 50).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    classes = interval(np.ones(50), np.arange(50), lambda v: group_mean(v, np.arange(50) % 5))
    assert classes.low < 0.95
    assert classes.high == 1


def test_repeated_items_of_a_cluster_add_no_certainty():
    values = (np.arange(100) % 3 == 0).astype(float)
    once = interval(values, np.arange(100))
    tenfold = interval(np.repeat(values, 10), np.repeat(np.arange(100), 10))
    assert (once.low, once.high) == pytest.approx((tenfold.low, tenfold.high))
    assert tenfold.n == 1000


def test_order_of_rows_and_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(4)
    values, clusters = clustered(rng)
    shuffle = rng.permutation(len(values))
    a, b = interval(values, clusters), interval(values[shuffle], clusters[shuffle])
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


def both(a, b, clusters, statistic):
    ours = np.repeat([True, False], len(a))
    return paired({"x": statistic(np.concatenate([a, b]))}, np.tile(clusters, 2), ours)["x"]


def test_paired_difference_is_narrower_than_two_intervals_and_has_the_right_sign():
    rng = np.random.default_rng(5)
    difficulty = rng.standard_normal(400)
    a, b = (difficulty > -0.1).astype(float), (difficulty > 0).astype(float)
    found, alone = both(a, b, np.arange(400), mean), interval(a, np.arange(400))
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert 0 < found.low < found.value < found.high
    assert found.n == 400
    assert found.high - found.low < alone.high - alone.low
    assert found.p < 0.01
    assert both(b, a, np.arange(400), mean).value == pytest.approx(-found.value)


@pytest.mark.parametrize("statistic", [mean, median, lambda v: group_mean(v, np.tile(np.arange(30) % 3, 2))])
def test_p_values_are_uniform_where_models_are_alike(statistic):
    rng = np.random.default_rng(6)
    ps = [both(*rng.standard_normal((2, 30)), np.arange(30), statistic).p for _ in range(120)]
    assert 0 < np.mean(np.array(ps) < 0.1) < 0.2
    assert 0.38 < np.mean(ps) < 0.62


def test_permutation_p_of_a_mean_agrees_with_scipy():
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, 25)) + np.array([[0.4], [0.0]])
    peer = stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", rng=0
    )
    assert both(a, b, np.arange(25), mean).p == pytest.approx(peer.pvalue, abs=0.03)


def test_a_model_does_not_differ_from_itself_but_certainty_is_bounded():
    values = (np.arange(100) % 2).astype(float)
    found = both(values, values, np.arange(100), mean)
    assert found.value == 0
    assert found.p == 1
    assert -0.05 < found.low < 0 < found.high < 0.05


def test_contrast_is_paired():
    a = np.random.default_rng(8).integers(0, 2, 100).astype(float)
    rows = np.arange(200)
    table, clusters = np.concatenate([a, 1 - a]), np.tile(np.arange(100), 2)
    first, second = mean(a, rows[:100]), mean(table[100:], rows[100:])
    found = intervals({"a": first, "d": contrast(first, second)}, clusters)
    assert found["d"].value == pytest.approx(2 * a.mean() - 1)
    assert found["d"].high - found["d"].low == pytest.approx(2 * (found["a"].high - found["a"].low), rel=1e-6)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 57, 200, 201, 5000])
def test_quantiles_of_t(freedom):
    for probability in (0.9, 0.975, 0.995):
        assert _t(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-5)


def test_over_seeds():
    found = over_seeds([0.5, 0.6, 0.7])
    low, high = stats.t.interval(0.95, 2, 0.6, stats.sem([0.5, 0.6, 0.7]))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.6, low, high, 3))
    assert over_seeds([0.5]).high == np.inf


def test_wilson_agrees_with_scipy():
    peer = stats.binomtest(7, 23).proportion_ci(method="wilson")
    assert wilson(7 / 23, 23) == pytest.approx((peer.low, peer.high))


def test_a_gain_of_everything_is_not_certain():
    """Twelve of twelve against none: no draw of these items differs, and others might."""
    table = np.array([1.0] * 12 + [0.0] * 12)
    ours, theirs = mean(table[:12], np.arange(12)), mean(table[12:], np.arange(12, 24))
    clusters = np.tile(np.arange(12), 2)
    gain = intervals({"gain": contrast(ours, theirs)}, clusters)["gain"]
    slack = stats.binomtest(0, 12).proportion_ci(method="wilson").high
    assert (gain.value, gain.high) == (1.0, 1.0)
    assert gain.low == pytest.approx(1 - slack)
