"""Samples as rows of Parquet files, each of which is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import Sample, UserError
from oculex.data.convert import encoded


def row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of a shard: pictures as files, and a digest of them by which they are known again."""
    shown = [sample["image"]] if "image" in sample else []
    several = [encoded(each) for each in sample.get("images") or ()]
    image = encoded(shown[0]) if shown else None
    questions = [
        {name: str(each.get(name, "")) for name in ("question", "answer", "kind")}
        for each in sample.get("questions") or ()
    ]
    return {
        "id": str(sample["id"]),
        "image": image,
        "images": several,
        "picture": picture(shown or sample.get("images") or []),
        "captions": list(sample.get("captions") or filter(None, [sample.get("caption")])),
        "questions": questions,
        "conversation": [dict(turn) for turn in sample.get("conversation") or ()],
        "label": sample.get("label"),
    }


def picture(images: Sequence[bytes | np.ndarray]) -> str:
    """Of the bytes of the pictures, in order; equal files, and equal pixels, are equal."""
    state = hashlib.sha256()
    for each in images:
        array = np.ascontiguousarray(each) if isinstance(each, np.ndarray) else None
        state.update(repr(array.shape).encode() if array is not None else b"file")
        state.update(array.tobytes() if array is not None else bytes(each))
    return state.hexdigest()[:32]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A Parquet file of samples. Raises UserError where it cannot be written, such as on a full disk."""
    import pyarrow as pa

    text = pa.string()
    talk = lambda *names: pa.list_(pa.struct([(name, text) for name in names]))  # noqa: E731
    schema = pa.schema(
        [
            ("id", text),
            ("image", pa.binary()),
            ("images", pa.list_(pa.binary())),
            ("picture", text),
            ("captions", pa.list_(text)),
            ("questions", talk("question", "answer", "kind")),
            ("conversation", talk("role", "text")),
            ("label", pa.int64()),
        ]
    )
    write_table(path, pa.Table.from_pylist(list(rows), schema))


def write_table(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            pq.write_table(table, file, row_group_size=256)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space and run it again, it goes on"
        ) from error
