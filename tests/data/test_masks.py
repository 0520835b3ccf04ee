"""Masks are fitted as pictures are, painted from COCO's polygons, and say where nobody knows."""

import json

import numpy as np
import pytest
from PIL import Image

from oculex.contracts import BadSample
from oculex.data.boxes import fitted
from oculex.data.masks import OUTSIDE, fitted_mask, painted_mask
from oculex.data.sources import open_source


def sample():
    mask = np.zeros((20, 40), np.uint8)
    mask[5:15, 10:20] = 3
    image = np.zeros((20, 40, 3), np.uint8)
    image[5:15, 10:20] = 255
    return {"id": "x", "image": image, "semantic": mask}


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mask_lies_where_its_picture_lies(mirrored):
    image, extent = fitted(sample(), 32, mirrored=mirrored)
    mask = fitted_mask(sample(), 32, mirrored)
    assert extent.tolist() == [32, 16]
    assert (mask[16:] == OUTSIDE).all()
    bright = image[0, :16] > 127
    assert ((mask[:16] == 3) == bright).mean() > 0.97


def test_what_is_no_mask_is_named():
    with pytest.raises(BadSample, match="no semantic mask"):
        fitted_mask({"id": "x"}, 8)
    with pytest.raises(BadSample, match="int64"):
        fitted_mask({"id": "x", "semantic": np.zeros((4, 4), np.int64)}, 8)


def test_small_objects_are_painted_over_large_ones_and_crowds_are_unknown():
    def square(x0, y0, x1, y1):
        return [np.array([x0, y0, x1, y0, x1, y1, x0, y1], np.float32)]

    boxes = [[2, 2, 5, 5], [0, 0, 9, 9], [7, 7, 9, 9]]
    mask = painted_mask(
        (12, 10), [square(*boxes[0]), square(*boxes[1]), []], boxes, [4, 0, 1], [False, False, True]
    )
    assert mask.shape == (10, 12)
    assert mask[3, 3] == 5
    assert mask[8, 1] == 1
    assert mask[0, 11] == 0
    alone = painted_mask((12, 10), [[]], [boxes[2]], [1], [True])
    assert alone[8, 8] == OUTSIDE


def test_cocos_polygons_become_masks(tmp_path):
    Image.new("RGB", (16, 12)).save(tmp_path / "a.jpg")
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 16, "height": 12}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [2, 2, 6, 6], "iscrowd": 0,
                         "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}],
    }  # fmt: skip
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(tree))
    mask = open_source(str(path))[0]["semantic"]
    assert mask.shape == (12, 16)
    assert mask[4, 4] == 1
    assert mask[10, 12] == 0
    tree["annotations"][0]["segmentation"] = {"counts": [1, 2], "size": [12, 16]}
    path.write_text(json.dumps(tree))
    assert "semantic" not in open_source(str(path))[0]
