"""What the kinds of sources share: where files may lie, how they are read, how a source is recognised again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from oculex.contracts import BadSample, UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_BYTES = 128 << 20
"""Larger image files are refused unread."""
MAX_TEXT = 1 << 16
"""Characters of a caption, over which it is not one."""
MAX_TABLE = 256 << 20
"""Bytes of a file that must be parsed as a whole, such as JSON, whose objects take many times as much memory."""


def cache_folder() -> Path:
    """Where indexes and rendered scenes are kept: OCULEX_CACHE, or the user's cache directory."""
    base = (
        os.environ.get("OCULEX_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oculex"
    )
    return Path(base)


def is_file(path: Path) -> bool:
    """Whether a regular file can be reached by this name; no name is too strange to ask."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_inside(root: Path, name: str, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file below ``root``; BadSample where the name leads out of it or nothing can be read."""
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(_real(root)):
            raise BadSample(name, "leads out of its folder")
        if not path.is_file():  # opening a pipe would wait for ever
            raise BadSample(name, "is not a file")
        if path.stat().st_size > most:
            raise BadSample(name, f"is larger than {most >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise BadSample(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


@lru_cache(maxsize=256)
def _real(root: Path) -> Path:
    return root.resolve()


def texts(value: object, key: str) -> list[str]:
    """Captions as a file gives them, a text or a list of texts, without the blank ones.

    Raises BadSample for anything else, a text that UTF-8 cannot write, and one longer than ``MAX_TEXT``.
    """
    kept = []
    for text in value if isinstance(value, list) else [value]:
        if text is None:
            continue
        if not isinstance(text, str):
            raise BadSample(key, f"its caption is of the type {type(text).__name__}, not text")
        if len(text) > MAX_TEXT:
            raise BadSample(key, f"its caption has {len(text):,} characters, over the limit of {MAX_TEXT:,}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadSample(key, "its caption has a broken character (half of a surrogate pair)") from None
        kept.append(text.strip())
    return [text for text in kept if text]


def decoded(content: bytes, key: str) -> str:
    """Text of a file beside an image; BadSample where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample(key, f"its text is not UTF-8 at byte {error.start}") from None


def label(value: object, classes: Sequence[str], key: str) -> dict[str, int]:
    """{"label": class index}, empty where there is none; -1 is the Hugging Face sign for an unknown class.

    Raises BadSample for a number that is no index of ``classes``.
    """
    if value is None or isinstance(value, (bool, str)) or value == -1:
        return {}
    limit = len(classes) or 1 << 31
    if not isinstance(value, int) or not 0 <= value < limit:
        raise BadSample(key, f"its label {str(value)[:40]} is not one of {limit} classes")
    return {"label": value}


def some(names: Iterable[object]) -> str:
    """A few of the names, for a message."""
    listed = [str(name)[:40] for name, _ in zip(names, range(9), strict=False)]
    return ", ".join([*listed[:8], *(["…"] if len(listed) > 8 else [])])


def digest(parts: Iterable[object]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(repr(part).encode("utf-8", "surrogatepass"))
        state.update(b"\0")
    return state.hexdigest()[:16]


def stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: enough to notice that it changed. Zeros where it cannot be reached."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return str(path), 0, 0
    return str(path), facts.st_size, facts.st_mtime_ns


def openable(path: Path) -> Path:
    """The path, if it is a regular file; a pipe or a device would wait or flow for ever. Raises UserError."""
    if not is_file(path):
        raise UserError(f"{path} is not a regular file; give files or a folder of files")
    return path
