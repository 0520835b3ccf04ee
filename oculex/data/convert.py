"""Any source to webdataset tars or Parquet, shard by shard; a shard is there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oculex.contracts import BadSample, Source, UserError
from oculex.data.decode import opened

Row = dict[str, Any]
_SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


def convert(source: Source, out: Path, to: str = "webdataset", shard: int = 10_000) -> dict[str, Any]:
    """Writes shards into the folder ``out``; {"samples", "shards", "skipped": [(id, reason)]}.

    Pictures keep their bytes. Raises UserError for an unknown format or a folder that already holds shards.
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
    written = shards = 0
    rows = _rows(source, skipped)
    while batch := [row for _, row in zip(range(shard), rows, strict=False)]:
        final = out / f"{shards:06d}.{suffix}"
        part = out / f".{final.name}.{os.getpid()}"
        write(part, batch)
        part.replace(final)
        written, shards = written + len(batch), shards + 1
    return {"samples": written, "shards": shards, "skipped": skipped}


def _rows(source: Source, skipped: list[tuple[str, str]]) -> Iterator[Row]:
    for index in range(len(source)):
        try:
            sample = source[index]
            image = sample["image"]
            opened(image, sample["id"])
        except BadSample as bad:
            skipped.append((bad.key, bad.reason))
            continue
        captions = sample.get("captions") or [text for text in [sample.get("caption")] if text]
        yield {
            "image": _encoded(image),
            "captions": list(captions),
            "label": sample.get("label"),
            "id": sample["id"],
        }


def _encoded(image: bytes | np.ndarray) -> bytes:
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(path: Path, rows: list[Row]) -> None:
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


def _parquet(path: Path, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=256)


_WRITERS: dict[str, tuple[str, Callable[[Path, list[Row]], None]]] = {
    "webdataset": ("tar", _tar),
    "parquet": ("parquet", _parquet),
}
