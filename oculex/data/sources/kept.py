"""Arrays of one type and shape that take longer to make than to read: made once, read from a file ever after."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from oculex.contracts import UserError

_CHECK = 4
"""Bytes of a row's checksum, which stands before it."""


class Kept:
    """Rows in one sparse file, each where its number says: what was never asked for takes no space.

    A row counts where its checksum is right, so one that a crash or another process left half written is made again.
    Rows must be functions of their number: processes that make the same one at once write the same.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self._size = _CHECK + int(np.prod(shape)) * self.dtype.itemsize

    def row(self, number: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a number, from ``make`` where the file does not have it. Raises UserError where the file cannot be
        written, such as on a full disk."""
        found = self._read(number)
        if found is None:
            found = np.ascontiguousarray(make(), self.dtype).reshape(self.shape)
            self._write(number, found)
        return found

    def _read(self, number: int) -> np.ndarray | None:
        try:
            with self.path.open("rb", buffering=0) as file:
                row = os.pread(file.fileno(), self._size, number * self._size)
        except OSError:
            return None
        values = row[_CHECK:]
        if len(row) < self._size or zlib.crc32(values) != int.from_bytes(row[:_CHECK], "little"):
            return None
        return np.frombuffer(bytearray(values), self.dtype).reshape(self.shape)

    def _write(self, number: int, array: np.ndarray) -> None:
        values = array.tobytes()
        row = zlib.crc32(values).to_bytes(_CHECK, "little") + values
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, row, number * self._size)
            finally:
                os.close(file)
        except OSError as error:
            raise UserError(
                f"cannot keep what was rendered in {self.path.parent}: {error.strerror}; free space or set OCULEX_CACHE"
            ) from error
