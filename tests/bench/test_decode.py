"""What the decode benchmark compares is the same work."""

import numpy as np
import pytest
from PIL import Image

from oculex.bench import decode
from oculex.contracts import UserError
from oculex.data.decode import opened


def test_both_sides_make_the_same_pixels():
    pytest.importorskip("torchvision")
    whole, halved = decode._photo(512, 384, 0), decode._photo(640, 480, 0)
    assert opened(whole, "x").size == (512, 384)
    assert decode.difference([whole])["largest"] <= 2
    apart = decode.difference([halved])
    assert (apart["mean"] <= decode.TOLERANCE[0], apart["largest"] <= decode.TOLERANCE[1]) == (True, True)
    assert apart["largest"] > 2  # decoded at half its size, or there was nothing to tolerate


def test_a_folder_without_pictures_is_one_line(tmp_path):
    with pytest.raises(UserError, match="has no JPEG"):
        decode._read(tmp_path)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.JPEG")
    assert len(decode._read(tmp_path)) == 1
