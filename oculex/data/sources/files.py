"""What the kinds of sources share: where files may lie, how they are read, how a source is recognised again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from oculex.contracts import BadSample

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_BYTES = 256 << 20
"""Larger image files are refused unread."""


def cache_folder() -> Path:
    """Where indexes and rendered scenes are kept: OCULEX_CACHE, or the user's cache directory."""
    base = (
        os.environ.get("OCULEX_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oculex"
    )
    return Path(base)


def read_inside(root: Path, name: str) -> bytes:
    """The bytes of a file below ``root``; BadSample where the name leads out of it or nothing can be read."""
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root.resolve()):
            raise BadSample(name, f"lies outside of {root}")
        if not path.is_file():
            raise BadSample(name, "is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise BadSample(name, f"is larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise BadSample(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def digest(parts: Iterable[object]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(repr(part).encode("utf-8", "surrogatepass"))
        state.update(b"\0")
    return state.hexdigest()[:16]


def stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: enough to notice that it changed."""
    facts = path.stat()
    return str(path), facts.st_size, facts.st_mtime_ns
