"""Effects over more than two arms: differences of differences, and whether metrics order candidates alike."""

from dataclasses import replace

import pytest

from oculex.claims.verdict import COMPARISONS, pairs
from oculex.contracts import Arm, Claim

METRICS = ("world/classify/top1", "world/detection/ap", "world/segmentation/miou")


def grid(candidates=4, metrics=METRICS):
    """A claim whose candidates differ in their width."""
    arms = tuple(
        Arm(f"{c} {metric}", metric, set={"width": 8 * c}) for c in range(candidates) for metric in metrics
    )
    return Claim("alike", "", "", arms, compare="rank_correlation", seeds=(0, 1))


def effect(claim, values):
    return COMPARISONS[claim.compare](values, claim)


def test_metrics_that_order_alike_agree_whatever_their_scale():
    claim = grid()
    values = {
        arm.name: [arm.set["width"] * (1 + n), arm.set["width"] ** 2] for n, arm in enumerate(claim.arms)
    }
    assert effect(claim, values).value == pytest.approx(1.0)
    turned = {
        arm.name: [-v for v in values[arm.name]] if arm.metric == METRICS[1] else values[arm.name]
        for arm in claim.arms
    }
    found = effect(claim, turned)
    assert found.value == pytest.approx((1 - 1 - 1) / 3)
    assert found.n == 2


def test_a_candidate_that_lacks_a_metric_is_a_mistake():
    claim = grid()
    short = replace(claim, arms=claim.arms[:-1])
    with pytest.raises(ValueError, match="needs an arm for each of"):
        effect(short, {arm.name: [1.0, 2.0] for arm in short.arms})
    twice = replace(claim, arms=(*claim.arms, replace(claim.arms[0], name="again")))
    with pytest.raises(ValueError, match="needs an arm for each of"):
        effect(twice, {arm.name: [1.0, 2.0] for arm in twice.arms})


def test_what_is_more_than_elsewhere_is_a_difference_of_differences():
    arms = tuple(Arm(name, METRICS[0]) for name in ("t", "c", "t2", "c2"))
    claim = Claim("more", "", "", arms, treatment="t", control="c", minus=("t2", "c2"))
    values = {"t": [0.7, 0.8], "c": [0.4, 0.5], "t2": [0.9, 0.9], "c2": [0.8, 0.7]}
    assert effect(claim, values).value == pytest.approx(((0.3 - 0.1) + (0.3 - 0.2)) / 2)
    assert len(pairs(values, claim)) == 2
    assert effect(replace(claim, minus=()), values).value == pytest.approx(0.3)
