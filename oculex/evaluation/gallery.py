"""What a retrieval found, for people to look at: some queries with their best hits and what was right.

A pure function of records and sources. A gallery is a list of {"set", "kind": "text_to_image" |
"image_to_text", "query", "hits", "truth", "rank", "of"}. The query is a text, or for image_to_text a picture; a
hit and the truth are {"id", "image" | "text"}, a hit also has "right"; "rank" is the truth's place among "of"
candidates. A picture is a data URI.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from oculex.contracts import BadSample, Source
from oculex.data.decode import opened
from oculex.data.views import captions
from oculex.evaluation.records import Table
from oculex.evaluation.retrieval import NAME, TO_IMAGE, TO_TEXT

QUERIES = 16
"""Over all sets and both directions; half of them right at rank 1 and half not, where there are as many."""
HITS = 6


def gallery(table: Table, sources: Mapping[str, Source]) -> list[dict[str, Any]]:
    """The same queries for the same records; empty where nothing was retrieved. ``sources``: by name of the set."""
    asked = [
        (name, kind, table.where(set=name, task=NAME, prompt=kind, control=""))
        for name in sources
        for kind in (TO_IMAGE, TO_TEXT)
    ]
    asked = [each for each in asked if len(each[2])]
    out = []
    for name, kind, rows in asked:
        chosen = _chosen(table, rows, max(2, QUERIES // len(asked)))
        kept = _kept(sources[name], {image for row in chosen for image in _images(table, row)})
        out += [{"set": name, "kind": kind, **_entry(table, row, kind, kept)} for row in chosen]
    return out


def thumbnail(picture: np.ndarray | Image.Image, side: int = 160) -> str:
    """A uint8 [H, W, 3] array or a picture as a WebP data URI whose longer side is at most ``side``."""
    small = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=86, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _chosen(table: Table, rows: np.ndarray, n: int) -> list[int]:
    """``n`` different queries in an order drawn from their ids alone."""
    order = sorted(rows.tolist(), key=lambda row: hashlib.blake2b(str(table["item"][row]).encode()).digest())
    different = list({(table["output"][row], table["truth"][row]): row for row in order}.values())
    right = [row for row in different if table["status"][row] == "right"]
    wrong = [row for row in different if table["status"][row] != "right"]
    taken = {*right[: max(n // 2, n - len(wrong))], *wrong[: max(n - n // 2, n - len(right))]}
    return [row for row in different if row in taken]


def _images(table: Table, row: int) -> list[str]:
    """Ids of the images that an entry speaks of."""
    names = [table["item"][row], *_top(table, row), *json.loads(table["truth"][row])["ids"][:1]]
    return [table["cluster"][row], *names, *(name.rpartition("#")[0] for name in names)]


def _top(table: Table, row: int) -> list[str]:
    return json.loads(table["output"][row])["top"][:HITS]


Kept = Mapping[str, tuple[str, Sequence[str]]]
"""Image id -> (thumbnail, captions)."""


def _kept(source: Source, wanted: set[str]) -> Kept:
    kept: dict[str, tuple[str, Sequence[str]]] = {}
    for index in range(len(source)):
        try:
            sample = source[index]
            name = str(sample["id"])
            if name in wanted:
                kept[name] = thumbnail(opened(sample.get("image", b""), name)), captions(sample)
        except BadSample:
            continue  # the evaluation has named it
    return kept


def _entry(table: Table, row: int, kind: str, kept: Kept) -> dict[str, Any]:
    image, truth = str(table["cluster"][row]), json.loads(table["truth"][row])
    asks_image = kind == TO_TEXT
    own = kept.get(image, ("", ()))
    text = "" if asks_image else _text(table["item"][row], kept)

    def right(name: str) -> bool:
        return _text(name, kept) in own[1] if asks_image else text in kept.get(name, ("", ()))[1]

    def shown(name: str) -> dict[str, str]:
        return {"id": name} | (
            {"text": _text(name, kept)} if asks_image else {"image": kept.get(name, ("",))[0]}
        )

    return {
        "query": own[0] if asks_image else text,
        "hits": [shown(name) | {"right": right(name)} for name in _top(table, row)],
        "truth": shown(truth["ids"][0]),
        "rank": int(table["score"][row]),
        "of": truth["of"],
    }


def _text(name: str, kept: Kept) -> str:
    """The caption of "image#n"."""
    image, _, number = name.rpartition("#")
    texts = kept.get(image, ("", ()))[1]
    return texts[int(number)] if number.isdigit() and int(number) < len(texts) else ""
