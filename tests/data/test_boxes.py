"""Pictures with boxes: COCO's files, captions whose words mean boxes, VOC's files, and what is wrong with some."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from oculex.contracts import UserError
from oculex.data.schema import SCHEMA
from oculex.data.sources import open_source
from oculex.data.sources.boxes import BoxedImages, holds_boxes
from oculex.data.sources.captions import CaptionedImages


def png(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, "PNG")
    path.write_bytes(file.getvalue())


def coco(folder, **changes):
    png(folder / "train2017" / "a.png")
    png(folder / "train2017" / "b.png")
    tree = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 3, "bbox": [1, 2, 10, 5.5], "category_id": 90, "iscrowd": 0},
            {"id": 2, "image_id": 3, "bbox": [0, 0, 40, 30], "category_id": 5, "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 5, "name": "person"}],
    } | changes
    path = folder / "annotations" / "instances_train2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


def test_cocos_instances_are_boxes_with_classes(tmp_path):
    source = open_source(str(coco(tmp_path)))
    assert isinstance(source, BoxedImages)
    assert source.classes == ("person", "toothbrush")
    sample = source[1]
    assert set(sample) <= set(SCHEMA)
    assert sample["id"] == "b.png"
    assert sample["boxes"].tolist() == [[1, 2, 11, 7.5], [0, 0, 40, 30]]
    assert sample["box_labels"].tolist() == [1, 0]
    assert sample["box_ignored"].tolist() == [False, True]
    assert source[0]["boxes"].shape == (0, 4)
    others = [{"id": 1, "image_id": 3, "bbox": [1, 2, 10, 6], "category_id": 90}]
    assert open_source(str(coco(tmp_path, annotations=others))).fingerprint() != source.fingerprint()


def test_words_of_a_caption_mean_boxes(tmp_path):
    """MDETR's layout: an entry for each picture and caption; boxes of the same words are one phrase."""
    caption = "two red cups and a spoon"
    path = coco(
        tmp_path,
        images=[{"id": n, "file_name": "a.png", "caption": caption} for n in (7, 3)],
        annotations=[
            {
                "image_id": 3,
                "bbox": [n, 0, 5, 5],
                "category_id": 1,
                "iscrowd": 0,
                "tokens_positive": [[0, 12]],
            }
            for n in range(2)
        ]
        + [
            {
                "image_id": 3,
                "bbox": [9, 9, 2, 2],
                "category_id": 1,
                "iscrowd": 0,
                "tokens_positive": [[17, 24]],
            }
        ],
        categories=[{"id": 1, "name": "object"}],
    )
    source = open_source(str(path))
    assert source.classes == ()
    assert [source[n]["id"] for n in range(2)] == ["a.png#7", "a.png#3"]
    assert "grounded" not in source[0]
    assert source[1]["grounded"] == [
        {"kind": "phrases", "text": caption, "spans": [[[0, 12]], [[17, 24]]], "boxes": [[0, 1], [2]]}
    ]
    assert source[1]["captions"] == [caption]


VOC = """<annotation><object><name>dog</name><difficult>{}</difficult><bndbox><xmin>1</xmin><ymin>11</ymin>
<xmax>20</xmax><ymax>30</ymax></bndbox></object><object><name> cat</name><bndbox><ymin>1</ymin><xmin>5</xmin>
<xmax>6.0</xmax><ymax>2</ymax></bndbox></object></annotation>"""


def test_vocs_folders_are_read(tmp_path):
    for name, hard in (("2007_1", 0), ("2007_2", 1)):
        png(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(VOC.format(hard))
    source = open_source(str(tmp_path))
    assert source.classes == ("cat", "dog")
    assert [source[n]["id"] for n in range(len(source))] == ["2007_1", "2007_2"]
    assert source[0]["boxes"].tolist() == [[0, 10, 20, 30], [4, 0, 6, 2]]
    assert source[0]["box_labels"].tolist() == [1, 0]
    assert source[1]["box_ignored"].tolist() == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "<annotation><object>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>",
        VOC.format(0).replace("<xmin>1</xmin>", ""),
    ],
    ids=["cut", "entities", "no corner"],
)
def test_what_is_no_voc_is_named(tmp_path, text):
    png(tmp_path / "JPEGImages" / "x.jpg")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "x.xml").write_text(text)
    with pytest.raises(UserError, match=r"x\.xml is not as VOC lays it out"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": [{"image_id": 99, "bbox": [0, 0, 1, 1]}]},
        {"annotations": [{"image_id": 3, "bbox": [0, 0, 1]}]},
        {"annotations": [{"image_id": 3, "bbox": "all of it"}]},
        {"images": {"bbox": 3}, "annotations": []},
    ],
)
def test_what_is_no_coco_is_named(tmp_path, changes):
    with pytest.raises(UserError, match="not as COCO lays it out"):
        BoxedImages.of(coco(tmp_path, **changes))


def test_real_coco_files(real_data):
    folder = real_data / "tiny_coco" / "annotations"
    source = open_source(str(folder / "instances_train2017.json"))
    assert (len(source), len(source.classes)) == (50, 80)
    boxes = [source[n]["boxes"] for n in range(len(source))]
    assert sum(map(len, boxes)) == 470
    assert sum(int(source[n]["box_ignored"].sum()) for n in range(len(source))) == 5
    sample = source[0]
    width, height = Image.open(io.BytesIO(sample["image"])).size
    assert (sample["boxes"][:, 2:] <= np.array([width, height]) + 0.5).all()
    assert not holds_boxes(folder / "captions_train2017.json")
    assert isinstance(open_source(str(folder / "captions_train2017.json")), CaptionedImages)
