"""The retrieval gallery: queries with what was found for them, as the evaluation kept them.

gallery.json is a list of {"query", "kind": "text_to_image" | "image_to_text", "hits", "truth"}. The query is a
text, or for image_to_text a picture; a hit is {"id", "image" | "text", "score", "right"}; "truth" is {"id",
"image" | "text"}, shown where no hit is right. A picture is a data URI or a path inside the run's folder.
"""

from __future__ import annotations

import binascii
import io
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculex.report.picture import thumbnail
from oculex.training.folder import read_json

HITS = 6
SHOWN = 16


def section(run: Path) -> list[dict[str, Any]]:
    """The queries with their pictures inlined; empty where the run kept no gallery."""
    path = run / "gallery.json"
    return [_query(entry, run) for entry in read_json(path)[:SHOWN]] if path.is_file() else []


def _query(entry: Mapping[str, Any], run: Path) -> dict[str, Any]:
    asked = "image" if entry["kind"] == "image_to_text" else "text"
    hits = [_shown(hit, run) for hit in entry["hits"][:HITS]]
    truth = entry.get("truth") or {}
    return {
        "kind": entry["kind"],
        "query": _shown({asked: entry["query"]}, run),
        "hits": hits,
        "found": any(hit["right"] for hit in hits),
        "truth": _shown(truth, run) if truth.get("image") or truth.get("text") else None,
    }


def _shown(entry: Mapping[str, Any], run: Path) -> dict[str, Any]:
    image = inlined(str(entry["image"]), run) if entry.get("image") else ""
    return {
        "id": str(entry.get("id", "")),
        "image": image,
        "text": str(entry.get("text") or ("" if image else f"picture {entry.get('id', '')} cannot be read")),
        "score": entry.get("score"),
        "right": bool(entry.get("right")),
    }


def inlined(reference: str, run: Path) -> str:
    """A thumbnail of a data URI or of a file inside ``run``; empty where it is no picture, or lies outside."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(_bytes(reference, run)) as picture:
            return thumbnail(picture)
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, binascii.Error):
        return ""


def _bytes(reference: str, run: Path) -> io.BytesIO:
    if reference.startswith("data:"):
        head, _, body = reference.partition(",")
        if not (head.startswith("data:image/") and head.endswith(";base64")):
            raise ValueError("not a picture")
        return io.BytesIO(b64decode(body, validate=True))
    path = (run / reference).resolve()
    if not path.is_relative_to(run.resolve()):
        raise ValueError("outside the run's folder")
    return io.BytesIO(path.read_bytes())
