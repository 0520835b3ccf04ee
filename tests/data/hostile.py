"""Whole files and tables that are mutated at random; everything is a function of a seed."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Build = Callable[[Path, np.random.Generator], str]
"""Makes files in a folder and gives what `open_source` is asked to open."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
NAMES = (
    "a.png", "b.jpg", "../outside/secret.png", "/etc/passwd", "/dev/zero", "a.png\x00.jpg", ".", "", "\udcff.png",
    "x" * 5000, "a\nforged: line", "\x1b[2Jgone.png", "link.png", "loop.png", "pipe.png", "zero.png", "folder.png",
    "images/../../outside/secret.png", "~/.ssh/id", "C:\\a.png", "\u202egnp.exe", "%s%n", "a" * 200 + "\n" * 50, "http://a/b.png",
)  # fmt: skip
TEXTS = (
    "a red ball", "", " ", "\x00", "\x1b]0;title\x07", "line\nbreak", "\u2028", "a" * 70_000, "é" * 100, "\ud83d", "NaN",
    None, 3, 1e400, True, ["a", "b"], ["a", None], [3], [], {"raw": "a"}, "\ufeff", "=cmd()", 10**300,
)  # fmt: skip


def picture(kind: str, rng: np.random.Generator, size: tuple[int, int] = (40, 28), **options: Any) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(content: bytes, rng: np.random.Generator, other: bytes = b"") -> bytes:
    """One to three of: cut, flip, overwrite, repeat, drop, insert, splice."""
    for _ in range(int(rng.integers(1, 4))):
        data, n = bytearray(content), len(content)
        at, past = sorted(int(v) for v in rng.integers(0, n + 1, 2))
        past = min(past, at + 64)
        match int(rng.integers(0, 8)):
            case 0:
                data = data[:at]
            case 1 | 2:
                for where in rng.integers(0, max(1, n), int(rng.integers(1, 9))):
                    if n:
                        data[where] ^= 1 << int(rng.integers(0, 8))
            case 3:
                number = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000)[int(rng.integers(0, 7))]
                data[at : at + 4] = struct.pack(("<L", ">L")[int(rng.integers(0, 2))], number)
            case 4:
                data[at:at] = bytes(data[at:past]) * int(rng.integers(1, 50))
            case 5:
                del data[at:past]
            case 6:
                data[at:at] = rng.bytes(int(rng.integers(1, 40)))
            case 7:
                data = data[:at] + other[at:]
        content = bytes(data)
    return content


# ------------------------------------------------------------------------------------------------ files to mutate


def images(folder: Path, rng: np.random.Generator) -> None:
    """Two whole pictures, and names that lead elsewhere."""
    (folder / "a.png").write_bytes(picture("PNG", rng))
    (folder / "b.jpg").write_bytes(picture("JPEG", rng))
    (folder / "link.png").symlink_to(folder.parent / "outside" / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()


def table(folder: Path, kind: str, rng: np.random.Generator, hostile: bool = True) -> Path:
    images(folder, rng)
    pool, said = (NAMES, TEXTS) if hostile else (("a.png", "b.jpg"), ("a red ball", "two"))
    rows = [
        (pool[i], said[j])
        for i, j in zip(rng.integers(0, len(pool), 12), rng.integers(0, len(said), 12), strict=True)
    ]
    rows.insert(int(rng.integers(0, 3)), ("a.png", "whole"))
    path = folder / f"captions.{kind.removeprefix('coco.')}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([("image", "caption"), *rows])
    elif kind == "coco.json":
        listed = [{"id": i, "file_name": name} for i, (name, _) in enumerate(rows)]
        notes = [{"image_id": i, "caption": text} for i, (_, text) in enumerate(rows)]
        path.write_text(json.dumps({"images": listed, "annotations": notes}))
    else:
        named = [{"image": name, "caption": text} for name, text in rows]
        path.write_text(
            json.dumps(named) if kind == "json" else "".join(json.dumps(row) + "\n" for row in named)
        )
    return path


def tar(path: Path, members: list[tuple[str, bytes]], **header: Any) -> None:
    with tarfile.open(path, "w", format=header.pop("format", tarfile.PAX_FORMAT)) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in header.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(content))


def _mutable_tar(folder: Path, rng: np.random.Generator) -> Path:
    members = []
    for index in range(3):
        members += [
            (f"{index}.jpg", picture("JPEG", rng)),
            (f"{index}.txt", b"a ball"),
            (f"{index}.cls", b"1"),
        ]
        members.append((f"{index}.json", json.dumps({"caption": "a ball", "label": index}).encode()))
    tar(folder / "s.tar", [*members, ("é" * 120 + ".jpg", picture("JPEG", rng))])
    return folder / "s.tar"


def _mutable_parquet(folder: Path, rng: np.random.Generator) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"image": {"bytes": picture("JPEG", rng), "path": "x"}, "caption": ["a", "b"], "label": i}
        for i in range(6)
    ]
    codec = ("snappy", "zstd", "none", "gzip")[int(rng.integers(0, 4))]
    pq.write_table(pa.Table.from_pylist(rows), folder / "s.parquet", row_group_size=3, compression=codec)
    return folder / "s.parquet"


def _hub(folder: Path, rng: np.random.Generator) -> Path:
    import datasets

    datasets.disable_progress_bars()
    rows = {
        "image": [{"bytes": picture("JPEG", rng), "path": None} for _ in range(4)],
        "text": list("abcd"),
        "label": [0, 1, 0, 1],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data.cast_column("label", datasets.ClassLabel(names=["x", "y"])).save_to_disk(str(folder / "d"))
    return folder / "d"


def mutable_table(kind: str) -> Build:
    def build(folder: Path, rng: np.random.Generator) -> str:
        path = table(folder, kind, rng, hostile=bool(rng.integers(0, 2)))
        if rng.integers(0, 4):
            path.write_bytes(mutated(path.read_bytes(), rng, b'[{"image": "a.png"'))
        return str(path)

    return build


def mutable_file(make: Callable[[Path, np.random.Generator], Path]) -> Build:
    """The same whole file each time, mutated differently."""

    def build(folder: Path, rng: np.random.Generator) -> str:
        path = make(folder, np.random.default_rng(int(rng.integers(0, 4))))
        path.write_bytes(mutated(path.read_bytes(), rng, bytes(2000)))
        return str(path)

    return build


def mutable_hub(folder: Path, rng: np.random.Generator) -> str:
    path = _hub(folder, np.random.default_rng(0))
    files = sorted(each for each in path.rglob("*") if each.is_file())
    for index in rng.integers(0, len(files), 1 if rng.integers(0, 3) else 2):
        files[index].write_bytes(mutated(files[index].read_bytes(), rng, b"\xff" * 500))
    return str(path)


def class_folder(folder: Path, rng: np.random.Generator) -> str:
    """Class folders or texts beside pictures, some of which are no files, no pictures or no text."""
    root = folder / "k"
    for index in range(6):
        where = root / ("x", "y\n", "\udcfe")[int(rng.integers(0, 3))]
        where.mkdir(parents=True, exist_ok=True)
        content = picture(FORMATS[int(rng.integers(0, 4))], rng)
        (where / f"{index}\x1b.png").write_bytes(mutated(content, rng, content))
        if rng.integers(0, 2):
            (where / f"{index}\x1b.txt").write_bytes(
                mutated("a ball\nzwei Bälle\n".encode(), rng, b"\xff\xfe")
            )
    images(root, rng)
    (root / "round").symlink_to(root)
    return str(root)


def single_image(kind: str) -> Build:
    def build(folder: Path, rng: np.random.Generator) -> str:
        options: dict[str, Any] = {
            "JPEG": {"progressive": bool(rng.integers(0, 2))},
            "GIF": {"comment": b"x" * 300},
        }.get(kind, {})
        if kind == "TIFF":
            options = {
                "compression": (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")[
                    int(rng.integers(0, 5))
                ]
            }
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 10))
        if kind in ("JPEG", "PNG", "WEBP"):
            options["exif"] = exif
        other = picture(FORMATS[int(rng.integers(0, 6))], rng)
        (folder / "i.png").write_bytes(mutated(picture(kind, rng, **options), rng, other))
        return str(folder)

    return build


SEEDS: dict[str, tuple[int, Build]] = {
    **{kind: (450, single_image(kind)) for kind in FORMATS},
    **{kind: (260, mutable_table(kind)) for kind in ("csv", "tsv", "json", "jsonl", "coco.json")},
    "tar": (600, mutable_file(_mutable_tar)),
    "parquet": (800, mutable_file(_mutable_parquet)),
    "hub": (150, mutable_hub),
    "classes": (100, class_folder),
}
"""Kind of input: how many of it are tried, and how one is made."""
