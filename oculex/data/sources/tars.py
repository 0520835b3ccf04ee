"""Webdataset tar shards with random access: an offset index is made at the first opening and kept in the cache."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from oculex.contracts import BadSample, Sample, UserError
from oculex.data.sources.files import IMAGES, MAX_BYTES, cache_folder, digest, stamp

_TEXTS = (".txt", ".caption", ".text")
_TABLES = (".json", ".cls")


class TarShards:
    """Members that share a name up to the first dot are one sample; class/NAME.jpg gives the class as label."""

    def __init__(self, paths: list[Path], name: str) -> None:
        self.name, self.paths = name, paths
        self.members: list[tuple[int, str, dict[str, tuple[int, int]]]] = []
        for shard, path in enumerate(paths):
            self.members += [(shard, key, parts) for key, parts in _index(path).items()]
        self.members = [m for m in self.members if any(suffix in IMAGES for suffix in m[2])]
        if not self.members:
            raise UserError(f"{name} holds no images")
        folders = [os.path.dirname(key) for _, key, _ in self.members]
        captioned = any(
            suffix in (*_TEXTS, *_TABLES) for _, _, parts in self.members[:100] for suffix in parts
        )
        self.folders = sorted(set(folders)) if all(folders) and not captioned else []
        self.classes = tuple(os.path.basename(folder).replace("_", " ") for folder in self.folders)
        self._files: dict[int, BinaryIO] = {}

    def fingerprint(self) -> str:
        return digest([stamp(path) for path in self.paths])

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int, /) -> Sample:
        shard, key, parts = self.members[index]
        name = f"{self.paths[shard].name}/{key}"
        sample: dict[str, Any] = {"id": name}
        for suffix, span in parts.items():
            content = self._read(shard, span, name)
            if suffix in IMAGES:
                sample["image"] = content
            elif suffix in _TEXTS:
                sample["captions"] = [content.decode("utf-8", "replace").strip()]
            elif suffix == ".cls" and content.strip().isdigit():
                sample["label"] = int(content)
            elif suffix == ".json" and "captions" not in sample:
                sample |= _table(content, name)
        if self.folders:
            sample["label"] = self.folders.index(os.path.dirname(key))
        return sample

    def _read(self, shard: int, span: tuple[int, int], name: str) -> bytes:
        try:
            if shard not in self._files:
                self._files[shard] = self.paths[shard].open("rb")
            content = os.pread(self._files[shard].fileno(), span[1], span[0])
        except OSError as error:
            raise BadSample(name, f"cannot be read: {error.strerror}") from error
        if len(content) != span[1]:
            raise BadSample(name, "the tar ends before it does")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}


def _table(content: bytes, name: str) -> dict[str, Any]:
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSample(name, f"its JSON cannot be read: {str(error)[:60]}") from error
    texts = table.get("captions") if isinstance(table, dict) else None
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return {"captions": texts}
    text = table.get("caption") or table.get("text") if isinstance(table, dict) else None
    return {"captions": [text]} if isinstance(text, str) and text.strip() else {}


def _index(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """{sample: {suffix: (offset, size)}} of a shard, from the cache while the file stays the same."""
    kept = cache_folder() / "tars" / f"{digest([stamp(path)])}.json"
    if kept.exists():
        try:
            return json.loads(kept.read_text(encoding="utf-8"))
        except ValueError:
            kept.unlink()  # a torn file of an earlier crash: made again below
    members: dict[str, dict[str, tuple[int, int]]] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, base = os.path.split(member.name)
                stem, dot, rest = base.partition(".")
                whole = (
                    member.isreg() and member.size <= MAX_BYTES and member.offset_data + member.size <= size
                )
                if whole and dot and stem:  # links, devices and members beyond the end are not samples
                    suffix = f".{rest.rpartition('.')[2].lower()}"
                    members.setdefault(os.path.join(folder, stem), {})[suffix] = (
                        member.offset_data,
                        member.size,
                    )
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if not members:
            raise UserError(f"cannot read {path}: {str(error)[:100]}; give an uncompressed tar") from error
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f".{kept.name}.{os.getpid()}")
    part.write_text(json.dumps(members), encoding="utf-8")
    part.replace(kept)
    return members
