"""Parquet shards with image bytes, or with names of images beside them, and what is asked or said about the images."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.sources.captions import CAPTION_COLUMNS, IMAGE_COLUMNS
from oculex.data.sources.files import digest, label, openable, read_inside, some, stamp, texts

_KEPT = 2
"""Row groups held decoded."""
_MAX_GROUP = 2 << 30
"""Bytes of a row group before compression; random access decodes a whole one."""
_MAX_ROWS = 1 << 22
"""Rows of a row group."""
LABEL_COLUMNS = ("label", "labels", "class", "cls")
TALK_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "questions": ("question", "answer", "kind"),
    "conversation": ("role", "text"),
}
"""Columns of lists, as `oculex curate` writes them, and the texts that each entry has."""


class ParquetShards:
    """Random access by row group; only the columns of images, captions, labels and talk are read."""

    def __init__(self, paths: list[Path], name: str) -> None:
        self.name, self.paths = name, paths
        groups: list[tuple[int, int, int]] = []
        for shard, path in enumerate(paths):
            metadata = _metadata(openable(path))
            if shard == 0:
                self._choose(metadata, name)
            if missing := self._chosen() - set(metadata.schema.to_arrow_schema().names):
                raise UserError(f"{path} has no column {some(missing)}, which {paths[0].name} has")
            groups += [(shard, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
        self._groups = groups
        self._starts = np.concatenate([[0], np.cumsum([rows for *_, rows in groups])]).astype(np.int64)
        if self._starts[-1] == 0:
            raise UserError(f"{name} has no rows")
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def _choose(self, metadata: Any, name: str) -> None:
        schema = metadata.schema.to_arrow_schema()
        lowered = {column.lower(): column for column in schema.names}
        pick = lambda known: next((lowered[each] for each in known if each in lowered), None)  # noqa: E731
        self.image = pick((*IMAGE_COLUMNS, "jpg", "png", "image_bytes", "bytes"))
        self.caption, self.label = pick(CAPTION_COLUMNS), pick(LABEL_COLUMNS)
        self.talk = tuple(column for column in TALK_COLUMNS if column in schema.names)
        self.several = "images" if "images" in schema.names and self.image != "images" else None
        if self.image is None and self.caption is None:
            raise UserError(
                f"{name} has columns {some(schema.names)}; one must hold images and be called image"
            )
        self.classes = _class_names(schema.metadata or {}, self.label)

    def _chosen(self) -> set[str]:
        named = (self.image, self.caption, self.label, self.several, *self.talk)
        return {column for column in named if column is not None}

    def fingerprint(self) -> str:
        return digest([stamp(path) for path in self.paths])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Sample:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self.paths[self._groups[group][0]]
        key = f"{shard.name}#{index}"
        row = self._row(group, index - int(self._starts[group]), key)
        sample: dict[str, Any] = {"id": printable(key)}
        several: Any = row[self.several] if self.several else None
        if several:
            sample["images"] = [_bytes(each, shard, key) for each in several]
        elif self.image is not None and not (row[self.image] is None and self.talk):
            sample["image"] = _bytes(row[self.image], shard, key)
        if self.caption is not None and (captions := texts(row[self.caption], key)):
            sample["captions"] = captions
        for column in self.talk:
            if row[column]:
                sample[column] = _told(row[column], TALK_COLUMNS[column], key)
        return sample | (label(row[self.label], self.classes, key) if self.label is not None else {})

    def _row(self, group: int, row: int, key: str) -> dict[str, Any]:
        table = self._table(group)
        if isinstance(table, str):
            raise BadSample(key, table)
        try:
            return {column: table[column][row].as_py() for column in table.column_names}
        except Exception as error:  # pyarrow raises its own kinds, IndexError and UnicodeDecodeError
            raise BadSample(key, f"cannot be read: {str(error)[:100]}") from error

    def _table(self, group: int) -> Any:
        """A decoded row group, or why there is none, which is found out once and holds for each of its rows."""
        import pyarrow.parquet as pq

        if group not in self._cache:
            shard, number, _ = self._groups[group]
            try:
                binary = _binary_columns(pq.read_metadata(self.paths[shard]), self._chosen())
                # as dictionaries, so that a value which is repeated a million times is held once
                with pq.ParquetFile(self.paths[shard], read_dictionary=binary) as file:
                    table = file.read_row_group(number, columns=sorted(self._chosen()))
                table.validate(full=True)
                self._cache[group] = table
            except Exception as error:  # pyarrow raises its own kinds, OSError and MemoryError
                self._cache[group] = f"row group {number} cannot be read: {str(error)[:100]}"
            while len(self._cache) > _KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}


def _metadata(path: Path) -> Any:
    """A shard's footer, if what it declares can be true and decoded. Raises UserError."""
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        metadata.schema.to_arrow_schema()
        groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        # a group's columns are not asked for their sizes: on a damaged footer pyarrow aborts the process there
        sizes = [group.total_byte_size for group in groups]
    except Exception as error:  # pyarrow raises its own kinds and OSError
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from error
    if min(rows, default=0) < 0 or sum(rows) > path.stat().st_size:
        raise UserError(f"{path} declares {sum(rows):,} rows in {path.stat().st_size:,} bytes; it is damaged")
    if min(sizes, default=0) < 0 or max(sizes, default=0) > _MAX_GROUP or max(rows, default=0) > _MAX_ROWS:
        raise UserError(
            f"{path} has a row group of {max(rows):,} rows, {max(sizes) >> 20:,} MiB, over the limit of "
            f"{_MAX_GROUP >> 20:,} MiB; write it again with smaller ones, such as row_group_size=256"
        )
    return metadata


def _binary_columns(metadata: Any, chosen: set[str]) -> list[str]:
    columns = [metadata.schema.column(c) for c in range(len(metadata.schema))]
    return [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.path.split(".")[0] in chosen]


def _class_names(metadata: dict[bytes, bytes], column: str | None) -> tuple[str, ...]:
    """Class names as the Hugging Face library writes them into the footer."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return tuple(printable(str(name), 200) for name in feature["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def _told(value: Any, names: tuple[str, ...], key: str) -> list[dict[str, str]]:
    """A list of entries that have a text of each name. Raises BadSample for anything else."""
    rows: list[Any] = value if isinstance(value, list) else [None]
    for each in rows:
        if not isinstance(each, dict) or not all(isinstance(each.get(name), str) for name in names):
            raise BadSample(key, f"has an entry without {', '.join(names)}")
        texts([each[name] for name in names], key)
    return [{name: each[name] for name in names} for each in rows]


def _bytes(value: Any, shard: Path, key: str) -> bytes:
    if isinstance(value, dict):  # a Hugging Face image: {"bytes", "path"}
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return read_inside(shard.parent, value)
    raise BadSample(key, f"its image is {type(value).__name__}, not bytes or a file name")
