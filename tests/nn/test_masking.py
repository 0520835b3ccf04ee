"""Masks hide what they are told to, where they are told to, and depend on the generator alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from oculex.nn.masking import MASKS, block_mask, grouped_mask, kept, random_mask


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MASKS)),
    rows=st.integers(2, 14),
    columns=st.integers(2, 14),
    share=st.floats(0.05, 0.9),
    align=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1000),
)
def test_a_share_is_hidden_in_whole_cells(name, rows, columns, share, align, seed):
    size = (rows * align, columns * align)
    hidden = MASKS[name](size, share, np.random.default_rng(seed), align)
    assert hidden.shape == size
    assert hidden.dtype == bool
    assert np.array_equal(hidden, MASKS[name](size, share, np.random.default_rng(seed), align))
    cells = hidden.reshape(rows, align, columns, align)
    assert (cells.any(axis=(1, 3)) == cells.all(axis=(1, 3))).all()
    n = rows * columns
    exact = {"random": n - int(n * (1 - share)), "block": round(share * n)}
    if name in exact:
        assert hidden.sum() == exact[name] * align**2
    else:
        assert hidden.sum() >= share * hidden.size


def test_each_patch_is_hidden_equally_often_at_random():
    rng = np.random.default_rng(0)
    often = np.mean([random_mask((4, 4), 0.75, rng) for _ in range(4000)], axis=0)
    assert np.abs(often - 0.75).max() < 0.03


@pytest.mark.parametrize("mask", [grouped_mask, block_mask])
def test_groups_are_connected(mask):
    """The same share in far fewer connected pieces than patches that are hidden one by one."""

    def pieces(make):
        rng = np.random.default_rng(0)
        return np.mean([ndimage.label(make((14, 14), 0.4, rng))[1] for _ in range(50)])

    assert pieces(mask) < pieces(random_mask) / 3


def test_kept_are_the_others_in_order():
    hidden = np.array([[True, False], [False, True]])
    assert kept(hidden).tolist() == [1, 2]
