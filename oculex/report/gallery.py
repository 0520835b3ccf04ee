"""The retrieval gallery: queries with what was found for them, from RUN/gallery.json as the evaluation kept it.

``oculex.evaluation.gallery`` states the format. The file is not trusted: pictures are decoded and encoded anew,
and one that is no data URI of a picture is not shown.
"""

from __future__ import annotations

import binascii
import io
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculex.evaluation.gallery import HITS, QUERIES, thumbnail
from oculex.training.folder import read_json


def section(run: Path) -> list[dict[str, Any]]:
    """The queries with their pictures; empty where the run kept no gallery."""
    path = run / "gallery.json"
    return [_query(entry) for entry in read_json(path)[:QUERIES]] if path.is_file() else []


def _query(entry: Mapping[str, Any]) -> dict[str, Any]:
    asked = "image" if entry["kind"] == "image_to_text" else "text"
    hits = [_shown(hit) for hit in entry["hits"][:HITS]]
    return {
        "set": str(entry["set"]),
        "kind": entry["kind"],
        "query": _shown({asked: entry["query"]}),
        "hits": hits,
        "found": any(hit["right"] for hit in hits),
        "truth": _shown(entry["truth"]),
        "rank": f"{entry['rank']:,} of {entry['of']:,}",
    }


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    image = inlined(str(entry["image"])) if entry.get("image") else ""
    return {
        "image": image,
        "text": str(entry.get("text") or ("" if image else f"picture {entry.get('id', '')} cannot be read")),
        "id": str(entry.get("id", "")),
        "right": bool(entry.get("right")),
    }


def inlined(uri: str, side: int = 160) -> str:
    """A thumbnail of a data URI, at most ``side`` pixels; empty where it is no picture."""
    from PIL import Image, UnidentifiedImageError

    head, _, body = uri.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        return ""
    try:
        with Image.open(io.BytesIO(b64decode(body, validate=True))) as picture:
            return thumbnail(picture, side)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, binascii.Error):
        return ""
