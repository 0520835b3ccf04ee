"""Drawings on a run's page: the newest records' pictures by text, and nothing from a file that nobody vouches for."""

import json

import numpy as np
from PIL import Image

from oculex.evaluation.drawing import NAME
from oculex.evaluation.gallery import thumbnail
from oculex.evaluation.records import Table
from oculex.report import drawings


def table(pictures, controls=("", "real")):
    uri = thumbnail(Image.fromarray(np.full((8, 8, 3), 200, np.uint8)))
    n = len(controls) * len(pictures)
    return Table.of(
        set="s", task=NAME, item=[f"i{k}" for k in range(len(pictures))] * len(controls), cluster="c", model="m",
        prompt=[f"a text {k}" for k in range(len(pictures))] * len(controls),
        control=[control for control in controls for _ in pictures],
        output=[json.dumps({"picture": uri if each is None else each}) for each in pictures] * len(controls),
        parsed="red cube", truth=json.dumps({"objects": ["red cube"]}), score=0.0, status=["right"] * n,
    )  # fmt: skip


def test_each_text_has_its_pictures(tmp_path):
    assert drawings.section(tmp_path) == []
    table([None, None]).write(tmp_path / "final.parquet")
    first, second = drawings.section(tmp_path)
    assert (first["text"], second["text"]) == ("a text 0", "a text 1")
    assert [each["of"] for each in first["pictures"]] == ["drawn", "the scene itself"]
    assert all(each["right"] and each["image"].startswith("data:image/") for each in first["pictures"])


def test_what_is_no_picture_is_left_out(tmp_path):
    table(["javascript:alert(1)", "data:image/png;base64,AAAA", None]).write(tmp_path / "final.parquet")
    (only,) = drawings.section(tmp_path)
    assert only["text"] == "a text 2"
    (tmp_path / "later.parquet").write_bytes(b"no table")
    assert len(drawings.section(tmp_path)) == 1
