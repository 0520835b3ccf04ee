"""Text files: every line that is not blank is a sample, a text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oculex.contracts import BadSample, Sample, UserError
from oculex.data.sources.files import digest, stamp

SUFFIXES = (".txt", ".text")
MAX_LINE = 1 << 20
"""Bytes of a line, over which it is not a text."""
_CHUNK = 1 << 24


class TextLines:
    """Random access by byte offsets, so that a file need not fit in memory."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Raises UserError for a file that cannot be read or has no text."""
        self.name, self.path = str(path), path
        try:
            self.spans = _spans(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; give a UTF-8 text file") from error
        if not len(self.spans):
            raise UserError(f"{path} has no text; give one text a line")

    def fingerprint(self) -> str:
        return digest([stamp(self.path)])

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int, /) -> Sample:
        start, stop, line = (int(value) for value in self.spans[index])
        key = f"{self.path.name} line {line + 1}"
        if stop - start > MAX_LINE:
            raise BadSample(key, f"has {stop - start:,} bytes, over the limit of {MAX_LINE:,}")
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                content = file.read(stop - start)
            text = content.decode("utf-8").strip()
        except OSError as error:
            raise BadSample(key, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadSample(key, f"is not UTF-8 at byte {error.start}") from error
        if not text:
            raise BadSample(key, "is blank")
        return {"id": key, "caption": text}


def _spans(path: Path) -> np.ndarray:
    """int64 [n, 3]: first byte, past the last byte, and line number of each line that is not empty."""
    ends, at = [], 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            ends.append(at + np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")))
            at += len(chunk)
    stops = np.concatenate([*ends, [at]]).astype(np.int64)
    starts = np.concatenate([[0], stops[:-1] + 1])
    spans = np.stack([starts, stops, np.arange(len(stops))], 1)
    return spans[stops > starts]
