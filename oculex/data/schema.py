"""The standard keys of a sample: one table gives every key's type, shape and unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    type: str
    shape: str
    unit: str
    about: str


SCHEMA: dict[str, Key] = {
    "id": Key("str", "", "", "unique within its source; names the sample in records and errors"),
    "epoch": Key("int", "", "", "how often training has drawn this sample before; absent in evaluation"),
    "image": Key("bytes or uint8 array", "[H, W, 3]", "sRGB 0..255", "encoded file, or decoded pixels"),
    "caption": Key("str", "", "", "one text that describes the image"),
    "captions": Key("list[str]", "[n]", "", "several texts of the same image; a view draws one"),
    "label": Key("int", "", "", "class index into the source's class names"),
    "depth": Key("float32 array", "[H, W]", "metre, 0 where unknown", "distance along the viewing axis"),
    "instances": Key("uint8 array", "[H, W]", "0 is background", "object index plus one at each pixel"),
    "semantic": Key("uint8 array", "[H, W]", "0 is background", "class index plus one at each pixel"),
    "boxes": Key("float32 array", "[n, 4]", "pixel, x0 y0 x1 y1", "boxes of the visible part of each object"),
    "graph": Key("dict", "", "", "objects with attributes, and relations"),
    "questions": Key("list[dict]", "[n]", "", "question, answer and kind"),
}
