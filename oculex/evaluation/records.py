"""The record table: what an evaluation writes, and all that any metric may read.

Key      (set, task, item, prompt, control) is unique for one model; ``model`` is the digest of its weights.
Layout   Parquet, one row per answered item, the columns of ``COLUMNS``; the schema version is in the file's
         metadata under ``oculex.records``. ``output`` and ``truth`` may hold JSON, as the task states.
Life     A file is written once, whole (temporary file, then rename), and never changed. Every metric,
         interval and comparison is recomputed from it; a file of another version is refused, never guessed
         at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import UserError

VERSION = "1"
STATUSES = ("right", "wrong", "unparsed", "rated")
COLUMNS: dict[str, str] = {
    "set": "name of the evaluation set",
    "task": "name of the task",
    "item": "what was asked: a sample's id, or a caption's (image id#n)",
    "cluster": "image id; items of one image are resampled together",
    "model": "digest of the weights",
    "prompt": "prompt or variant of the question",
    "control": "empty, or the blind control: wrong_image, no_image",
    "output": "raw output",
    "parsed": "the answer read off the output; empty where there is none",
    "truth": "the right answer",
    "score": "float64; its meaning is the task's",
    "status": "right, wrong or unparsed; rated where the score is a measurement and nothing is right or wrong",
}


class Table:
    """Columns of equal length: strings (object arrays), and ``score`` (float64)."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        if set(columns) != set(COLUMNS):
            raise ValueError(f"a record table has the columns {', '.join(COLUMNS)}")
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError("columns of a record table have equal length")
        self._columns = {name: columns[name] for name in COLUMNS}

    @classmethod
    def of(cls, **columns: Sequence[Any] | np.ndarray | str | float) -> Table:
        """A table from its columns; one string or number stands for a whole column."""
        lengths = {len(c) for c in columns.values() if not isinstance(c, (str, float))}
        if len(lengths) != 1:
            raise ValueError("columns of a record table have equal length")
        n = lengths.pop()
        arrays = {name: np.empty(n, np.float64 if name == "score" else object) for name in columns}
        for name, column in columns.items():
            arrays[name][:] = column
        return cls(arrays)

    @classmethod
    def empty(cls) -> Table:
        return cls({name: np.empty(0, np.float64 if name == "score" else object) for name in COLUMNS})

    def __len__(self) -> int:
        return len(self._columns["score"])

    def __getitem__(self, column: str) -> np.ndarray:
        return self._columns[column]

    def rows(self, index: np.ndarray) -> Table:
        """The rows that a boolean or integer array picks."""
        return Table({name: column[index] for name, column in self._columns.items()})

    def where(self, **equal: str) -> np.ndarray:
        """Indices of the rows whose columns have the given values."""
        mask = np.ones(len(self), bool)
        for column, value in equal.items():
            mask &= self[column] == value
        return np.flatnonzero(mask)

    def select(self, **equal: str) -> Table:
        """``table.select(set="world", task="zeroshot")``."""
        return self.rows(self.where(**equal))

    def write(self, path: str | Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        arrays = [pa.array(self[name], pa.float64() if name == "score" else pa.string()) for name in COLUMNS]
        table = pa.table(arrays, names=list(COLUMNS)).replace_schema_metadata({"oculex.records": VERSION})
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            pq.write_table(table, partial, compression="zstd")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def concat(tables: Sequence[Table]) -> Table:
    if not tables:
        return Table.empty()
    return Table({name: np.concatenate([table[name] for table in tables]) for name in COLUMNS})


def read(path: str | Path) -> Table:
    """A table from a file that nobody vouches for: layout, types and values are checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path)
            arrow = file.read(columns=list(COLUMNS))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `oculex evaluate` writes records") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as records ({reason}); evaluate again") from error
    columns = {name: arrow[name].to_numpy() for name in COLUMNS}
    if any(arrow[name].null_count for name in COLUMNS) or not np.isfinite(columns["score"]).all():
        raise UserError(f"{path}: has records without a value; evaluate again")
    if not np.isin(columns["status"], STATUSES).all():
        raise UserError(f"{path}: a status is none of {', '.join(STATUSES)}; evaluate again")
    return Table(columns)


def _check_schema(schema: Any, path: str | Path) -> None:
    import pyarrow as pa

    version = (schema.metadata or {}).get(b"oculex.records", b"none").decode(errors="replace")
    if version != VERSION:
        raise UserError(f"{path}: records of version {version}, this oculex reads {VERSION}; evaluate again")
    for name in COLUMNS:
        wanted = pa.float64() if name == "score" else pa.string()
        if name not in schema.names or schema.field(name).type != wanted:
            raise UserError(f"{path}: column {name!r} should be there once, of type {wanted}; evaluate again")
    if len(schema.names) != len(COLUMNS):
        raise UserError(f"{path}: has columns that records do not have; evaluate again")
