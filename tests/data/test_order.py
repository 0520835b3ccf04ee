from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oculex.contracts import UserError
from oculex.data.order import Order, Permutation, generator, keyed, mix


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_permutation_is_a_bijection(n, key):
    permutation = Permutation(n, key)
    assert sorted(permutation(i) for i in range(n)) == list(range(n))


def test_permutation_depends_on_its_key_and_leaves_no_trend():
    first, second = ([Permutation(1000, key)(i) for i in range(1000)] for key in (1, 2))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    fixed = sum(image == i for i, image in enumerate(first))
    rising = sum(b > a for a, b in pairwise(first))
    assert fixed < 10
    assert 440 < rising < 560  # a uniform permutation gives 499.5 with standard deviation 9.1


def test_adjacent_epochs_are_unrelated():
    n = 500
    one, two = ([Permutation(n, 7, epoch)(i) for i in range(n)] for epoch in (0, 1))
    mean = (n - 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(one, two, strict=True))
    variance = sum((a - mean) ** 2 for a in one)
    assert abs(covariance / variance) < 0.2  # five standard deviations of a random pairing is 0.22


def test_a_pool_visits_every_sample_once_an_epoch():
    order = Order([3, 50, 7], None, seed=5)
    for epoch in range(3):
        seen = [order.at(epoch * 60 + i) for i in range(60)]
        assert sorted(seen) == [(s, i) for s, n in enumerate((3, 50, 7)) for i in range(n)]


def test_a_mixture_keeps_its_quota_and_every_source_its_epochs():
    order = Order([10, 1000], [3.0, 1.0], seed=1)
    seen = [order.at(i) for i in range(2 * Order.BLOCK)]
    assert Counter(source for source, _ in seen) == {0: 6144, 1: 2048}
    small = Counter(index for source, index in seen if source == 0)
    assert set(small.values()) <= {614, 615}
    large = Counter(index for source, index in seen if source == 1)
    assert set(large.values()) == {2, 3}


def test_order_repeats_from_any_position():
    one, two = Order([100], None, 3), Order([100], None, 3)
    assert [one.at(i) for i in range(150, 250)] == [two.at(i) for i in range(150, 250)]
    assert [Order([100], None, 4).at(i) for i in range(50)] != [one.at(i) for i in range(50)]


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, float("nan")], [1.0, 1e-6], [0.0, 1.0]])
def test_impossible_weights_are_named(weights):
    with pytest.raises(UserError):
        Order([5, 5], weights, 0)


def test_an_empty_source_is_named():
    with pytest.raises(UserError, match="no samples"):
        Order([5, 0], None, 0)


def test_randomness_is_a_function_of_its_words():
    assert mix(1, 2) != mix(2, 1) != mix(1, 2, 0)
    assert generator(3, 4).integers(1 << 60) == generator(3, 4).integers(1 << 60)
    assert generator(3, 4).integers(1 << 60) != generator(3, 5).integers(1 << 60)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_the_epoch_counts_how_often_a_sample_was_drawn_before(weights):
    order, seen = Order([300, 70], weights, seed=2), Counter()
    for position in range(9000):
        source, index, epoch = order.drawn(position)
        assert (source, index) == order.at(position)
        seen[source, index, epoch] += 1
    assert set(seen.values()) == {1}
    assert {epoch for _, _, epoch in seen} > {0, 1, 2}


def test_a_key_is_all_it_takes_to_draw_again():
    assert keyed(mix(3, 4)).random(5).tolist() == generator(3, 4).random(5).tolist()
