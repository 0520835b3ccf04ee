"""Curated shards as the conversations that LLaVA and what came after it are trained on."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from oculex.contracts import UserError
from oculex.curation.shards import picture
from oculex.data.sources.conversations import PLACE

IMAGES = "images"
_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


def write_chat(shards: Path, file: Path) -> int:
    """Writes ``file``, a list of ``id``, ``image`` and ``conversations``, and the pictures into images/ beside it, each
    once; how many conversations. Several pictures are a list of names, as ProVision's authors write them.

    Samples of which nothing is said are left out. Raises UserError where it cannot be written.
    """
    import pyarrow.parquet as pq

    files = sorted(shards.glob("*.parquet"))
    rows = (
        row for path in files for batch in pq.ParquetFile(path).iter_batches(64) for row in batch.to_pylist()
    )
    part, many = file.with_name(f".{file.name}.{os.getpid()}"), 0
    try:
        (file.parent / IMAGES).mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as out:
            for row in rows:
                turns = _turns(row)
                if not turns:
                    continue
                shown = row["images"] or [row["image"]]
                names = [_kept(image, file.parent) for image in shown if image is not None]
                turns[0]["value"] = "\n".join([" ".join([PLACE] * len(names)), turns[0]["value"]]).strip()
                told: dict[str, Any] = {"id": row["id"]}
                told |= {"image": names if len(names) > 1 else names[0]} if names else {}
                out.write("[\n" if many == 0 else ",\n")
                out.write(json.dumps(told | {"conversations": turns}, ensure_ascii=False))
                many += 1
            out.write("\n]\n" if many else "[]\n")
        part.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another place") from error
    return many


def _turns(sample: Mapping[str, Any]) -> list[dict[str, str]]:
    who = {"user": "human", "assistant": "gpt", "system": "system"}
    if talk := sample.get("conversation"):
        return [{"from": who.get(turn["role"], "human"), "value": turn["text"]} for turn in talk]
    return [
        {"from": role, "value": each[key]}
        for each in sample.get("questions") or ()
        for role, key in (("human", "question"), ("gpt", "answer"))
    ]


def _kept(image: bytes, folder: Path) -> str:
    """The name, below ``folder``, of a picture that is written if it is not there."""
    name = picture([image])
    try:
        kind = Image.open(io.BytesIO(image)).format or "PNG"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        kind = "PNG"  # which says so when it is read
    named = f"{IMAGES}/{name}.{_SUFFIX.get(kind, 'png')}"
    if not (folder / named).exists():
        part = folder / f"{IMAGES}/.{name}.{os.getpid()}"
        part.write_bytes(image)
        part.replace(folder / named)
    return named
