"""Thumbnails and contact sheets."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from oculex.report.gallery import inlined
from oculex.report.picture import contact_sheet, thumbnail

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


def test_a_thumbnail_is_small_and_alike():
    smooth = np.zeros((300, 200, 3), np.uint8) + np.linspace(0, 255, 300, dtype=np.uint8)[:, None, None]
    head, body = thumbnail(smooth, 64).split(",")
    small = _open(base64.b64decode(body))
    assert head == "data:image/webp;base64"
    assert small.shape == (64, 43, 3)
    assert abs(small.astype(int).mean() - smooth.mean()) < 3


def test_only_pictures_inside_the_run_are_inlined(tmp_path):
    run, secret = tmp_path / "run", tmp_path / "secret.png"
    run.mkdir()
    for path in (secret, run / "own.png"):
        Image.fromarray(IMAGES[0]).save(path)
    (run / "link.png").symlink_to(secret)
    (run / "text.png").write_text("no picture")
    assert inlined("own.png", run).startswith("data:image/webp;base64,")
    assert inlined(thumbnail(IMAGES[1]), run).startswith("data:image/webp;base64,")
    outside = ["../secret.png", str(secret), "link.png", "https://example.org/a.png"]
    no_picture = ["text.png", "absent.png", "data:text/html,<b>", "data:image/svg+xml;base64,PHN2Zy8+"]
    for refused in (*outside, *no_picture, "data:image/png;base64,????"):
        assert inlined(refused, run) == "", refused
