"""Contact sheets."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from oculex.report.picture import contact_sheet

IMAGES = np.random.default_rng(0).integers(0, 255, (5, 40, 60, 3), np.uint8)


def _open(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_sheet_holds_every_image_in_reading_order():
    sheet = _open(contact_sheet(IMAGES, columns=3, gap=8))
    assert sheet.shape == (2 * 40 + 8, 3 * 60 + 2 * 8, 3)
    assert (sheet[:40, :60] == IMAGES[0]).all()
    assert (sheet[48:, 68:128] == IMAGES[4]).all()
    assert (sheet[48:, 136:] == 255).all()


def test_captions_stand_below_and_stay_within_their_column():
    plain = _open(contact_sheet(IMAGES, columns=5, gap=8))
    sheet = _open(contact_sheet(IMAGES, columns=5, captions=["", "a b", "long " * 40, "x" * 200, "e"], gap=8))
    assert (sheet[:40] == plain).all()
    below = sheet[40:]
    assert below.min() < 200
    assert (below[:, :60] == 255).all()
    assert all((below[:, 60 + 68 * k : 68 + 68 * k] == 255).all() for k in range(4))
    with pytest.raises(ValueError, match="5 images need as many captions, got 1"):
        contact_sheet(IMAGES, columns=3, captions=["one"])
