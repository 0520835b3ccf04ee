"""Pictures with boxes: what was found is drawn where it was found, and a file that is not ours is not trusted."""

import base64
import io
import json

import numpy as np
from PIL import Image

from oculex.evaluation import EvalSet, evaluate
from oculex.evaluation.drawn import COLOURS, drawn
from oculex.report.drawn import section
from tests.evaluation.test_fakes import Listed
from tests.evaluation.test_grounding import Finder, picture, text


def made():
    asked = text("phrases", ("cube", [0]), ("ball", [1]))
    source = Listed([picture(0, [asked], [[4, 2, 16, 14], [24, 4, 36, 16]])])
    found = evaluate(
        Finder({(0, "cube"): [[4, 2, 16, 14]]}), {"s": EvalSet("s", source)}, tasks=["grounding"]
    )
    return drawn(found.table, {"s": source})


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(
        int
    )


def near(image, x, y, colour):
    around = image[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
    return np.abs(around - np.array(colour)).sum(1).min() < 90  # thumbnails are lossy


def test_boxes_are_drawn_where_they_were_found():
    (entry,) = made()
    assert entry["text"] == "cube. ball"
    assert entry["phrases"] == [
        {"phrase": "cube", "colour": 0, "score": 1.0, "right": True},
        {"phrase": "ball", "colour": 1, "score": None, "right": False},
    ]
    image = pixels(entry["image"])
    assert image.shape == (160, 320, 3)
    assert near(image, 4 * 8, 8 * 8, COLOURS[0])
    assert near(image, 10 * 8, 2 * 8, COLOURS[0])
    assert near(image, 24 * 8 + 3, 4 * 8, COLOURS[1]), "what is not found is shown in dashes"
    assert not near(image, 10 * 8, 8 * 8, COLOURS[0])


def test_the_page_shows_them_and_trusts_no_file(tmp_path):
    entries = made()
    (tmp_path / "boxes.json").write_text(
        json.dumps([*entries, entries[0] | {"image": "javascript:alert(1)"}])
    )
    (shown,) = section(tmp_path)
    assert shown["phrases"][0]["phrase"] == "cube"
    assert shown["image"].startswith("data:image/webp;base64,")
    assert section(tmp_path / "nothing") == []
