"""Pictures with the boxes that were found drawn into them, for people to look at.

A pure function of records and sources: a list of {"set", "image", "text", "phrases"}, where "image" is a data URI,
and a phrase is {"phrase", "colour", "score", "right"}: "colour" numbers ``COLOURS``, "score" is null where no box was
found. The best box of a phrase is drawn whole, those that it means in dashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from oculex.contracts import BadSample, Source
from oculex.data.decode import opened
from oculex.evaluation.gallery import thumbnail
from oculex.evaluation.grounding import NAME
from oculex.evaluation.records import Table

PICTURES = 12
"""Over all sets."""
SIDE = 320
"""Longer side of a picture, in pixels."""
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 190, 207))
_DASH = 6


def drawn(table: Table, sources: Mapping[str, Source]) -> list[dict[str, Any]]:
    """The same texts for the same records, chosen by their ids alone; empty where nothing was grounded."""
    asked = [(name, table.where(set=name, task=NAME, control="")) for name in sources]
    asked = [(name, rows) for name, rows in asked if len(rows)]
    return [
        made
        for name, rows in asked
        for made in _of_set(table, name, rows, sources[name], max(1, PICTURES // len(asked)))
    ]


def _of_set(table: Table, name: str, rows: np.ndarray, source: Source, most: int) -> list[dict[str, Any]]:
    texts: dict[str, list[int]] = {}
    for row in rows.tolist():
        texts.setdefault(table["item"][row].rpartition(".")[0], []).append(row)
    chosen = sorted(texts, key=lambda text: hashlib.blake2b(text.encode()).digest())[:most]
    wanted = {table["cluster"][texts[text][0]] for text in chosen}
    out = []
    for index in range(len(source)):
        try:
            sample = source[index]
            if str(sample["id"]) not in wanted:
                continue
            picture = opened(sample["image"], sample["id"])
        except BadSample:
            continue  # the evaluation has named it
        grounded = sample.get("grounded") or ()
        for number, text in enumerate(grounded):
            item = f"{sample['id']}#{number}"
            if item in chosen:
                out.append(
                    {
                        "set": name,
                        "image": _picture(picture, table, texts[item]),
                        "text": text["text"],
                        "phrases": [_phrase(table, row, n) for n, row in enumerate(texts[item])],
                    }
                )
    return out


def _phrase(table: Table, row: int, number: int) -> dict[str, Any]:
    scores = json.loads(table["output"][row])["scores"]
    return {
        "phrase": json.loads(table["truth"][row])["phrase"],
        "colour": number % len(COLOURS),
        "score": scores[0] if scores else None,
        "right": table["status"][row] == "right",
    }


def _picture(picture: Image.Image, table: Table, rows: Sequence[int]) -> str:
    scale = SIDE / max(picture.size)
    shown = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(shown)
    for number, row in enumerate(rows):
        colour = COLOURS[number % len(COLOURS)]
        for box in json.loads(table["truth"][row])["boxes"]:
            _dashed(pen, [edge * scale for edge in box], colour)
        if table["parsed"][row]:
            x0, y0, x1, y1 = (edge * scale for edge in json.loads(table["parsed"][row]))
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=3)
    return thumbnail(shown, SIDE)


def _dashed(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    for start in np.arange(x0, x1, 2 * _DASH):
        end = min(start + _DASH, x1)
        pen.line([(start, y0), (end, y0)], fill=colour, width=2)
        pen.line([(start, y1 - 1), (end, y1 - 1)], fill=colour, width=2)
    for start in np.arange(y0, y1, 2 * _DASH):
        end = min(start + _DASH, y1)
        pen.line([(x0, start), (x0, end)], fill=colour, width=2)
        pen.line([(x1 - 1, start), (x1 - 1, end)], fill=colour, width=2)
