"""ALBEF's texts and RandAugment."""

import numpy as np
import pytest

from oculex.data.albef import OPERATIONS, plain_text, rand_augment


def test_texts_lose_their_punctuation_and_their_end():
    assert plain_text('  A "Blue" Bottle (500ml): new!\n', 30) == "a blue bottle 500ml new"
    assert plain_text("one two, three four", 3) == "one two, three"


def picture():
    rows, columns = np.mgrid[0:32, 0:32]
    return np.stack([rows * 4, columns * 4, (rows + columns) * 2]).astype(np.uint8)


def test_a_key_replays_every_pixel_and_half_of_the_operations_are_done():
    flat = np.full((3, 8, 8), 90, np.uint8)  # which moving alone changes, by grey from outside
    drawn = [rand_augment(flat, np.random.default_rng(k), 5.0, count=1) for k in range(400)]
    assert all(
        (a == rand_augment(flat, np.random.default_rng(k), 5.0, count=1)).all()
        for k, a in enumerate(drawn[:20])
    )
    changed = sum(not np.array_equal(a, flat) for a in drawn)
    assert abs(changed / 400 - 0.5 * 5 / 10) < 0.07
    assert drawn[0].shape == flat.shape
    assert drawn[0].dtype == np.uint8


@pytest.mark.parametrize("name", ["identity", "brightness", "sharpness"])
def test_at_the_magnitude_of_the_papers_these_do_nothing(name):
    from PIL import Image

    before = Image.fromarray(picture().transpose(1, 2, 0))
    assert np.array_equal(np.asarray(OPERATIONS[name](before, 0.5, 1.0)), np.asarray(before))


def test_pictures_are_moved_by_so_many_pixels():
    from PIL import Image

    before = Image.fromarray(picture().transpose(1, 2, 0))
    after = np.asarray(OPERATIONS["translate_x"](before, 0.5, 1.0))
    assert np.array_equal(after[:, :-5], np.asarray(before)[:, 5:])
    assert (after[:, -5:] == 128).all()
