"""Chunks of embeddings on disk, so that an interrupted evaluation goes on where it stopped.

Key      A digest of: the weights, the system's class and configuration, what is computed (and against which
         texts), the source's fingerprint, the indices asked for, the rendered view of the first sample, and
         the precision.
Layout   CACHE/KEY/key.json says these in words; CACHE/KEY/NNNNNN.safetensors is chunk N: ``values`` float32
         [n, D], and in its metadata, as JSON, the items (id, label, captions) and the unreadable samples
         (key, reason).
Life     A chunk is written whole (temporary file, then rename) when its last sample is done. A chunk that
         does not parse is computed again. Nothing here is ever changed or removed: delete the folder to
         reclaim the space.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

LAYOUT = 1


@dataclass(frozen=True)
class Item:
    """What records need of a sample beside its embedding."""

    id: str
    label: int | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Chunk:
    values: np.ndarray
    """float32 [n, D]."""
    items: tuple[Item, ...]
    bad: tuple[tuple[str, str], ...]
    """(key, reason) of samples that could not be read."""


class Store:
    """The chunks of one key."""

    def __init__(self, cache: Path, about: Mapping[str, Any]) -> None:
        text = json.dumps({"layout": LAYOUT, **about}, sort_keys=True, indent=1)
        self.folder = cache / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "key.json", text.encode())

    def get(self, number: int) -> Chunk | None:
        """The chunk, or None where it is absent or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(number), framework="np") as file:
                values, about = file.get_tensor("values"), json.loads((file.metadata() or {})["about"])
            return _parse(values, about)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None

    def put(self, number: int, chunk: Chunk) -> None:
        from safetensors.numpy import save

        about = {"items": [asdict(item) for item in chunk.items], "bad": chunk.bad}
        values = np.ascontiguousarray(chunk.values, np.float32)
        _replace(self._path(number), save({"values": values}, {"about": json.dumps(about)}))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def _parse(values: np.ndarray, about: Any) -> Chunk:
    items = tuple(
        Item(str(i["id"]), _label(i["label"]), tuple(map(str, i["captions"]))) for i in about["items"]
    )
    bad = tuple((str(key), str(reason)) for key, reason in about["bad"])
    if values.dtype != np.float32 or values.ndim != 2 or len(values) != len(items):
        raise ValueError("the chunk's values do not fit its items")
    return Chunk(values, items, bad)


def _label(value: Any) -> int | None:
    return None if value is None else int(value)


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
