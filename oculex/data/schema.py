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
    "images": Key(
        "list of bytes or uint8 arrays",
        "[n]",
        "sRGB 0..255",
        "several pictures that belong together, in order",
    ),
    "caption": Key("str", "", "", "one text that describes the image"),
    "captions": Key("list[str]", "[n]", "", "several texts of the same image; a view draws one"),
    "label": Key("int", "", "", "class index into the source's class names"),
    "depth": Key(
        "bytes or float32 array",
        "[H, W]",
        "metre, 0 where unknown; a file has millimetres",
        "distance along the viewing axis; a file is a 16-bit grey PNG",
    ),
    "infrared": Key(
        "bytes or float32 array",
        "[H, W]",
        "kelvin; a 16-bit file has hundredths, one of 8 bits no unit",
        "apparent temperature",
    ),
    "video": Key(
        "bytes or uint8 array", "[T, H, W, 3]", "sRGB 0..255", "encoded file, or frames evenly in time"
    ),
    "audio": Key(
        "bytes or float32 array", "[n]", "-1..1, 16,000 a second", "encoded file, or one channel of sound"
    ),
    "instances": Key("uint8 array", "[H, W]", "0 is background", "object index plus one at each pixel"),
    "semantic": Key("uint8 array", "[H, W]", "0 is background", "class index plus one at each pixel"),
    "boxes": Key("float32 array", "[n, 4]", "pixel, x0 y0 x1 y1", "boxes of the visible part of each object"),
    "box_labels": Key(
        "int array", "[n]", "", "class index of each box into the source's class names; -1 is none"
    ),
    "box_ignored": Key(
        "bool array", "[n]", "", "a box of a crowd, or too hard: to find it is neither right nor wrong"
    ),
    "grounded": Key(
        "list[dict]",
        "[n]",
        "",
        "text, spans of its phrases in characters, boxes that each means, kind of text",
    ),
    "graph": Key("dict", "", "", "objects with attributes, and relations"),
    "alternatives": Key(
        "list[dict]",
        "[n]",
        "",
        "kind, true text, false texts, group of the kind, picture if it is not the sample",
    ),
    "questions": Key(
        "list[dict]", "[n]", "", "question, answer and kind; answers where several people were asked"
    ),
    "conversation": Key("list[dict]", "[n]", "", "turns in order: role (system, user or assistant) and text"),
    "instruction": Key("str", "", "", "what a robot is told to do, such as: push the red cube"),
    "action": Key(
        "float32 array",
        "[D]",
        "the source's ``actions`` tell",
        "what the robot did next, in its own dimensions",
    ),
    "question": Key("str", "", "", "what an evaluation asks about the sample; no source has it"),
}
