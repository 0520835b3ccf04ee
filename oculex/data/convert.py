"""Any source to webdataset tars or Parquet, shard by shard; a shard is there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oculex.contracts import BadSample, Source, UserError
from oculex.data.decode import opened
from oculex.data.sources.tars import CLASS_NAMES

Row = dict[str, Any]
_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


def convert(
    source: Source,
    out: Path,
    to: str = "webdataset",
    shard: int = 10_000,
    leave_out: frozenset[str] = frozenset(),
    side: int | None = None,
) -> dict[str, Any]:
    """Writes shards into the folder ``out``; {"samples", "shards", "left_out", "skipped": [(id, reason)]}.

    Pictures keep their bytes, labels their classes' names; samples whose ids are in ``leave_out`` are left out. With
    ``side`` a picture whose shorter side has more pixels is resized to that many and encoded anew, as a JPEG.
    Raises UserError for an unknown format or a folder that already holds shards.
    """
    if to not in _WRITERS:
        raise UserError(f"cannot convert to {to!r}; known: {', '.join(_WRITERS)}")
    suffix, write = _WRITERS[to]
    if shard < 1 or list(out.glob(f"*.{suffix}")):
        raise UserError(
            f"{out} already holds shards, or shard={shard} is not a positive number; choose an empty folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another folder") from error
    skipped: list[tuple[str, str]] = []
    written = shards = left = 0
    rows = _rows(source, skipped, side)
    while read := [row for _, row in zip(range(shard), rows, strict=False)]:
        batch = [row for row in read if row["id"] not in leave_out]
        left += len(read) - len(batch)
        if not batch:
            continue
        final = out / f"{shards:06d}.{suffix}"
        part = out / f".{final.name}.{os.getpid()}"
        write(part, batch, source.classes)
        part.replace(final)
        written, shards = written + len(batch), shards + 1
    return {"samples": written, "shards": shards, "left_out": left, "skipped": skipped}


def _rows(source: Source, skipped: list[tuple[str, str]], side: int | None) -> Iterator[Row]:
    for index in range(len(source)):
        try:
            sample = source[index]
            image: Any = sample.get("image")
            picture = opened(image, sample["id"])
        except BadSample as bad:
            skipped.append((bad.key, bad.reason))
            continue
        captions = sample.get("captions") or [text for text in [sample.get("caption")] if text]
        yield {
            "image": _smaller(picture, side) if side and min(picture.size) > side else encoded(image),
            "captions": list(captions),
            "label": sample.get("label"),
            "id": sample["id"],
        }


def encoded(image: bytes | np.ndarray) -> bytes:
    """A picture as a file: its own bytes, or a PNG of its pixels."""
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _smaller(picture: Image.Image, side: int) -> bytes:
    scale = side / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _tar(path: Path, rows: list[Row], classes: Sequence[str]) -> None:
    if classes:
        (path.parent / CLASS_NAMES).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows):
            kind = Image.open(io.BytesIO(row["image"])).format or "JPEG"
            about = {"id": row["id"], "label": row["label"], "captions": row["captions"]}
            about["caption"] = row["captions"][0] if row["captions"] else ""
            members = {_SUFFIX[kind]: row["image"], "json": json.dumps(about, ensure_ascii=False).encode()}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _parquet(path: Path, rows: list[Row], classes: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    if classes:  # where the Hugging Face library keeps them, and looks for them
        text = {"dtype": "string", "_type": "Value"}
        features = {"image": {"_type": "Image"}, "captions": {"feature": text, "_type": "List"}, "id": text}
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=256)


_WRITERS: dict[str, tuple[str, Callable[[Path, list[Row], Sequence[str]], None]]] = {
    "webdataset": ("tar", _tar),
    "parquet": ("parquet", _parquet),
}
