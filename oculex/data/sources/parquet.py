"""Parquet shards with image bytes, or with names of images beside them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample, UserError
from oculex.data.sources.captions import CAPTION_COLUMNS, IMAGE_COLUMNS
from oculex.data.sources.files import digest, read_inside, stamp

_KEPT = 4
"""Row groups held decoded."""


class ParquetShards:
    """Random access by row group; only the image, caption and label columns are read."""

    def __init__(self, paths: list[Path], name: str) -> None:
        import pyarrow.parquet as pq

        self.name, self.paths = name, paths
        groups: list[tuple[int, int, int]] = []
        self.classes: tuple[str, ...] = ()
        for shard, path in enumerate(paths):
            try:
                metadata = pq.read_metadata(path)
            except Exception as error:  # pyarrow raises its own kinds and OSError
                raise UserError(f"cannot read {path}: {str(error)[:100]}") from error
            groups += [(shard, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
        columns = pq.read_schema(paths[0]).names
        lowered = {column.lower(): column for column in columns}
        pick = lambda known: next((lowered[each] for each in known if each in lowered), None)  # noqa: E731
        self.image, self.caption = (
            pick((*IMAGE_COLUMNS, "jpg", "png", "image_bytes", "bytes")),
            pick(CAPTION_COLUMNS),
        )
        self.label = pick(("label", "labels", "class", "cls"))
        if self.image is None and self.caption is None:
            raise UserError(
                f"{name} has columns {', '.join(columns)}; one must hold images and be called image"
            )
        self._groups = groups
        self._starts = np.concatenate([[0], np.cumsum([rows for *_, rows in groups])]).astype(np.int64)
        if self._starts[-1] == 0:
            raise UserError(f"{name} has no rows")
        self._cache: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()

    def fingerprint(self) -> str:
        return digest([stamp(path) for path in self.paths])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Sample:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._rows(group)[index - int(self._starts[group])]
        shard = self.paths[self._groups[group][0]]
        key = f"{shard.name}#{index}"
        sample: dict[str, Any] = {"id": key}
        if self.image is not None:
            sample["image"] = _bytes(row[self.image], shard, key)
        if self.caption is not None and row[self.caption]:
            texts = row[self.caption]
            sample["captions"] = [str(text) for text in texts] if isinstance(texts, list) else [str(texts)]
        if self.label is not None and isinstance(row[self.label], int):
            sample["label"] = row[self.label]
        return sample

    def _rows(self, group: int) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        if group not in self._cache:
            shard, number, _ = self._groups[group]
            columns = [c for c in (self.image, self.caption, self.label) if c is not None]
            try:
                with pq.ParquetFile(self.paths[shard]) as file:
                    self._cache[group] = file.read_row_group(number, columns=columns).to_pylist()
            except Exception as error:  # pyarrow raises its own kinds and OSError
                raise BadSample(f"{self.paths[shard].name} row group {number}", str(error)[:100]) from error
            while len(self._cache) > _KEPT:
                self._cache.popitem(last=False)
        return self._cache[group]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}


def _bytes(value: Any, shard: Path, key: str) -> bytes:
    if isinstance(value, dict):  # a Hugging Face image: {"bytes", "path"}
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return read_inside(shard.parent, value)
    raise BadSample(key, f"its image is {type(value).__name__}, not bytes or a file name")
