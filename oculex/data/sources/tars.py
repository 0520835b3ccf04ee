"""Webdataset tar shards with random access: an offset index is made at the first opening and kept in the cache."""

from __future__ import annotations

import contextlib
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.sources.files import (
    IMAGES,
    MAX_BYTES,
    cache_folder,
    decoded,
    digest,
    label,
    openable,
    read_inside,
    stamp,
    texts,
)
from oculex.data.sources.tar_index import members

CLASS_NAMES = "classnames.txt"
_TEXTS = (".txt", ".caption", ".text")
_TABLES = (".json", ".cls")
_OPEN = 64
"""Shards held open; a process may open about a thousand files."""
_VERSION = 3
"""Of the kept index."""

Part = list[int] | str
"""[offset, size], or why it cannot be read."""


class TarShards:
    """Members that share a name up to the first dot are one sample; class/NAME.jpg gives the class as label.

    A member that is a link, a device or cut off, and one whose name is there twice, is a sample that raises BadSample.
    Class names of numeric labels stand in ``CLASS_NAMES`` beside the shards, one a line.
    """

    def __init__(self, paths: list[Path], name: str) -> None:
        self.name, self.paths = name, paths
        self.members: list[tuple[int, str, dict[str, Part]]] = []
        for shard, path in enumerate(paths):
            self.members += [(shard, key, parts) for key, parts in _index(openable(path)).items()]
        self.members = [m for m in self.members if any(suffix in IMAGES for suffix in m[2])]
        if not any(isinstance(part, list) for *_, parts in self.members for part in parts.values()):
            raise UserError(f"{name} holds no images; a sample is NAME.jpg with NAME.txt or NAME.json")
        folders = [os.path.dirname(key) for _, key, _ in self.members]
        described = any(
            suffix in (*_TEXTS, *_TABLES) for _, _, parts in self.members[:100] for suffix in parts
        )
        self.folders = {folder: n for n, folder in enumerate(sorted(set(folders)))} if all(folders) else {}
        if described or len(self.folders) < 2:
            self.folders = {}
        self.classes = tuple(
            printable(os.path.basename(folder).replace("_", " ")) for folder in self.folders
        ) or _class_names(paths[0].parent)
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def fingerprint(self) -> str:
        return digest([stamp(path) for path in self.paths])

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int, /) -> Sample:
        shard, key, parts = self.members[index]
        name = f"{self.paths[shard].name}/{key}"
        image = next(suffix for suffix in IMAGES if suffix in parts)
        sample: dict[str, Any] = {"id": printable(name), "image": self._read(shard, parts[image], name)}
        for suffix in sorted(parts, reverse=True):  # .txt before .json, whose caption is the same text again
            if suffix in _TEXTS and "captions" not in sample:
                if captions := texts(decoded(self._read(shard, parts[suffix], name), name), name):
                    sample["captions"] = captions
            elif suffix == ".cls":
                sample |= self._label(self._read(shard, parts[suffix], name), name)
            elif suffix == ".json":
                sample = _table(self._read(shard, parts[suffix], name), self.classes, name) | sample
        if self.folders:
            sample["label"] = self.folders[os.path.dirname(key)]
        return sample

    def _label(self, content: bytes, name: str) -> dict[str, int]:
        digits = content.strip()
        if not digits.isdigit() or len(digits) > 10:
            raise BadSample(name, "its .cls holds no class number")
        return label(int(digits), self.classes, name)

    def _read(self, shard: int, part: Part, name: str) -> bytes:
        if isinstance(part, str):
            raise BadSample(name, part)
        offset, size = part
        try:
            if shard not in self._files:
                self._files[shard] = self.paths[shard].open("rb")
            self._files.move_to_end(shard)
            content = os.pread(self._files[shard].fileno(), size, offset)
            while len(self._files) > _OPEN:
                self._files.popitem(last=False)[1].close()
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise BadSample(name, "the tar ends before it does")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict()}


def _table(content: bytes, classes: tuple[str, ...], name: str) -> dict[str, Any]:
    """Captions and label of a JSON member."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSample(name, f"its JSON cannot be read: {str(error)[:60]}") from error
    if not isinstance(table, dict):
        raise BadSample(name, f"its JSON is a {type(table).__name__}, not named values")
    value = next((table[key] for key in ("captions", "caption", "text") if table.get(key)), None)
    captions = texts(value, name)
    return ({"captions": captions} if captions else {}) | label(table.get("label"), classes, name)


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        lines = decoded(read_inside(folder, CLASS_NAMES, 1 << 24), CLASS_NAMES).splitlines()
    except BadSample:
        return ()
    return tuple(printable(line.strip()) for line in lines if line.strip())


def _index(path: Path) -> dict[str, dict[str, Part]]:
    """{sample: {suffix: part}} of a shard, from the cache while the file stays the same."""
    kept = cache_folder() / "tars" / f"{digest([stamp(path), _VERSION])}.json"
    with contextlib.suppress(OSError, ValueError):  # absent, or torn by an earlier crash: made again below
        return json.loads(kept.read_text(encoding="utf-8", errors="surrogatepass"))
    made: dict[str, dict[str, Part]] = {}
    for member in members(path):
        folder, base = os.path.split(member.name)
        stem, dot, rest = base.partition(".")
        if member.wrong and not (dot and stem):
            if member.name.startswith("byte "):
                made[member.name] = {".jpg": member.wrong}  # damage has a name and is counted
            continue
        if not (dot and stem):
            continue
        key, suffix = os.path.join(folder, stem), f".{rest.rpartition('.')[2].lower()}"
        wrong = member.wrong or ("is larger than an image may be" if member.size > MAX_BYTES else "")
        parts = made.setdefault(key, {})
        if suffix in parts:
            key = f"{key} (again)"
            wrong, parts = f"its {suffix} is in the tar more than once", made.setdefault(key, {})
        parts[suffix] = wrong or [member.offset, member.size]
    with contextlib.suppress(OSError):  # without a place to keep it, it is made anew next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}")
        part.write_text(json.dumps(made), encoding="utf-8")
        part.replace(kept)
    return made
