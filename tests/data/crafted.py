"""Files crafted to exhaust or mislead a reader, one for each trick that is known."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.hostile import Build, images, picture


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def _png(width: int, height: int, raw: bytes, before: bytes = b"") -> bytes:
    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + before
        + _chunk(b"IDAT", zlib.compress(raw, 9))
        + _chunk(b"IEND", b"")
    )


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF of (tag, kind, count, value or offset) entries; ``tail`` follows the directory."""
    packed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4) + tail


def _tiff_tiles(side: int) -> bytes:
    data = zlib.compress(bytes(1 << 24), 9)
    entries = [
        (256, 3, 1, 16),
        (257, 3, 1, 16),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
    ]
    entries += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8 + 2 + 12 * 9 + 4), (325, 4, 1, len(data))]
    return tiff(entries, data)


def _exif_bomb() -> bytes:
    """Each of thousands of EXIF entries claims the whole of ten joined segments."""
    size, count = 60_000, 4000
    block = tiff([(0x9000 + i, 7, size * 10, 8) for i in range(count)], bytes(size * 10))
    parts = [block[i : i + size] for i in range(0, len(block), size)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts)
    return b"\xff\xd8" + segments + picture("JPEG", np.random.default_rng(0))[2:]


def _scan_bomb() -> bytes:
    """A progressive JPEG of 60 million pixels whose last scan is repeated 20,000 times."""
    whole = bytearray(picture("JPEG", np.random.default_rng(0), (16, 16), progressive=True))
    frame = whole.index(b"\xff\xc2")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", 7700, 7700)
    last = whole.rindex(b"\xff\xda")
    return bytes(whole[:-2] + whole[last:-2] * 20_000 + whole[-2:])


def _gif(width: int, height: int, frame: tuple[int, int], comments: int = 0) -> bytes:
    comment = b"\x21\xfe" + b"\xff" + b"c" * 255
    body = (comment * 1 + (b"\xff" + b"c" * 255) * comments + b"\0") if comments else b""
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + body
        + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\0;"
    )  # fmt: skip


def _webp(width: int, height: int) -> bytes:
    """An extended header that declares a canvas, before a whole small picture."""
    body = picture("WEBP", np.random.default_rng(0))[12:]
    canvas = (
        b"VP8X"
        + struct.pack("<LL", 10, 0)
        + struct.pack("<L", width - 1)[:3]
        + struct.pack("<L", height - 1)[:3]
    )
    content = b"WEBP" + canvas + body
    return b"RIFF" + struct.pack("<L", len(content)) + content


def _deep_grey() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((7900, 8000), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE_BOMBS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "png of 2^31 squared": lambda: _png(2**31 - 1, 2**31 - 1, b""),
    "png over the limit, compressed a thousandfold": lambda: _png(20_000, 20_000, bytes(1 << 26)),
    "png with more data than pixels": lambda: _png(4, 4, bytes(1 << 26)),
    "png with a text bomb":
        lambda: _png(4, 4, bytes(52), _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 28), 9))),
    "png with a profile bomb":
        lambda: _png(4, 4, bytes(52), _chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1 << 28), 9))),
    "png of a hundred thousand empty chunks": lambda: _png(4, 4, bytes(52), _chunk(b"teSt", b"") * 100_000),
    "png of 63 million grey pixels": _deep_grey,
    "gif of 65535 squared": lambda: _gif(65535, 65535, (1, 1)),
    "gif whose frame is larger than its screen": lambda: _gif(1, 1, (65535, 65535)),
    "gif with a comment of 20 MB": lambda: _gif(4, 4, (4, 4), 80_000),
    "webp canvas of 2^24 squared": lambda: _webp(1 << 24, 1 << 24),
    "webp canvas of 16383 squared": lambda: _webp(16383, 16383),
    "tiff whose tile is 2^30 pixels": lambda: _tiff_tiles(32768),
    "tiff whose entries claim the same bytes":
        lambda: tiff([(60_000 + i, 7, 4_000_000, 8) for i in range(4000)], bytes(4_000_000)),
    "tiff whose parts are endless": lambda: tiff([(0x8769, 4, 1, 8)] * 60_000),
    "tiff strips of 2^32 rows":
        lambda: tiff([(256, 4, 1, 2**31), (257, 4, 1, 2**31), (259, 3, 1, 5), (273, 4, 1, 8), (279, 4, 1, 9)]),
    "jpeg whose exif entries claim the same bytes": _exif_bomb,
    "jpeg with twenty thousand scans": _scan_bomb,
    "jpeg of 65500 squared":
        lambda: picture("JPEG", np.random.default_rng(0)).replace(struct.pack(">HH", 28, 40), b"\xff\xdc\xff\xdc"),
    "bmp of 2^31 squared":
        lambda: b"BM" + struct.pack("<LLLLllHHLLllLL", 60, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(r) file\n",
    "pickle": lambda: b"\x80\x04c\nos\nsystem\n",
}  # fmt: skip


def _bomb(make: Callable[[], bytes]) -> Build:
    def build(folder: Path, _: np.random.Generator) -> str:
        (folder / "i.png").write_bytes(make())
        return str(folder)

    return build


def _text(name: str, content: Callable[[], bytes]) -> Build:
    def build(folder: Path, rng: np.random.Generator) -> str:
        images(folder, rng)
        (folder / name).write_bytes(content())
        return str(folder / name)

    return build


def _header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with a right checksum and whatever stands in its fields."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[257:263], block[148:156] = b"ustar\0", b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _raw_tar(*blocks: bytes) -> Build:
    def build(folder: Path, rng: np.random.Generator) -> str:
        content = picture("JPEG", rng)
        whole = _header(b"first.jpg", b"%011o\0" % len(content)) + content + bytes(-len(content) % 512)
        (folder / "s.tar").write_bytes(whole + b"".join(blocks) + bytes(1024))
        return str(folder / "s.tar")

    return build


def _special_tar(folder: Path, rng: np.random.Generator) -> str:
    """Links, devices, pipes, traversal, doubled and strange names."""
    with tarfile.open(folder / "s.tar", "w", errors="surrogateescape", encoding="utf-8") as file:
        for index, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
        ):
            member = tarfile.TarInfo(f"special{index}.jpg")
            member.type, member.linkname, member.devmajor, member.size = kind, "/etc/passwd", 1, 0
            file.addfile(member)
        for name in (
            "a.jpg",
            "a.jpg",
            "../../escape.jpg",
            "/abs.jpg",
            "new\nline.jpg",
            "\udcff.jpg",
            "x" * 6000 + ".jpg",
            "./b.jpg",
        ):
            content = picture("JPEG", rng)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return str(folder / "s.tar")


def _gzipped_tar(folder: Path, _: np.random.Generator) -> str:
    """A gigabyte of zeros as an ordinary name."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    (folder / "s.tar").write_bytes(zeros)
    return str(folder / "s.tar")


def _parquet(make: Callable[[], Any], **options: Any) -> Build:
    def build(folder: Path, _: np.random.Generator) -> str:
        import pyarrow.parquet as pq

        pq.write_table(make(), folder / "s.parquet", **options)
        return str(folder / "s.parquet")

    return build


def _wide_parquet() -> Any:
    """40 GB of image bytes in a file of a few kilobytes: one value of 4 MB, named ten thousand times."""
    import pyarrow as pa

    images = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array([bytes(4 << 20)]))
    return pa.table({"image": images, "caption": pa.array(["x"] * 10_000)})


def _typed_parquet() -> Any:
    import pyarrow as pa

    return pa.table({"image": [1, 2], "caption": [{"a": 1}, {"a": 2}], "label": [2**62, -5]})


def _many_rows(folder: Path, rng: np.random.Generator) -> str:
    """A footer that declares 2^40 rows: the number stands there as a varint, and is replaced by one as long."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 3_000_000
    pq.write_table(pa.table({"caption": pa.array(["x"] * rows)}), folder / "s.parquet", row_group_size=rows)
    return str(folder / "s.parquet")


def _mode(folder: Path, make: Callable[[Path], None], name: str) -> str:
    make(folder / name)
    return str(folder / name)


CRAFTED: dict[str, Build] = {
    **{name: _bomb(make) for name, make in IMAGE_BOMBS.items()},
    "csv with a field of 8 MB": _text("c.csv", lambda: b"image,caption\na.png," + b"x" * (8 << 20) + b"\n"),
    "csv of a million columns":
        _text("c.csv", lambda: b"image,caption" + b",c" * 1_000_000 + b"\n" + b"a.png,x\n" * 50_000),
    "csv of one line without end": _text("c.csv", lambda: b"image,caption\n" + b"," * (40 << 20)),
    "csv with an open quote": _text("c.csv", lambda: b'image,caption\na.png,"' + b"x\n" * 900_000),
    "csv in latin-1": _text("c.csv", lambda: "image,caption\na.png,é\n".encode("latin-1")),
    "csv of zeros": _text("c.csv", lambda: bytes(1 << 20)),
    "csv that is empty": _text("c.csv", lambda: b""),
    "json nested a million deep": _text("c.json", lambda: b"[" * 1_000_000),
    "json objects nested a million deep": _text("c.json", lambda: b'{"a":' * 1_000_000),
    "json with a number of a million digits":
        _text("c.json", lambda: b'[{"image": "a.png", "caption": ' + b"9" * 1_000_000 + b"}]"),
    "json of two million empty rows": _text("c.json", lambda: b"[" + b"{}," * 2_000_000 + b"{}]"),
    "jsonl nested a million deep":
        _text("c.jsonl", lambda: b'{"image": "a.png", "caption": "x"}\n' + b"[" * 1_000_000 + b"\n"),
    "jsonl in utf-16": _text("c.jsonl", lambda: '{"image": "a.png", "caption": "x"}\n'.encode("utf-16")),
    "coco of wrong types":
        _text("c.json", lambda: b'{"images": [1, null, {"id": [], "file_name": 3}], "annotations": "x"}'),
    "coco with lists as names":
        _text("c.json", lambda: b'{"images": [{"id": 1, "file_name": [1]}], '
        b'"annotations": [{"image_id": 1, "caption": "x"}]}'),
    "coco with an unhashable id":
        _text("c.json", lambda: b'{"images": [{"id": {}, "file_name": "a.png"}], "annotations": []}'),
    "tar with links, devices and strange names": _special_tar,
    "tar that is a gzip bomb": _gzipped_tar,
    "tar that is empty": _text("s.tar", lambda: b""),
    "tar of zeros": _text("s.tar", lambda: bytes(1 << 20)),
    "tar member of 2^87 bytes": _raw_tar(_header(b"b.jpg", b"\x80" + b"\xff" * 11)),
    "tar member of a negative size": _raw_tar(_header(b"b.jpg", b"\xff" * 12)),
    "tar member of size -1": _raw_tar(_header(b"b.jpg", b"-0000000001\0")),
    "tar pax header of 8 GB": _raw_tar(_header(b"p", b"77777777777\0", b"x")),
    "tar pax size of a million digits":
        _raw_tar(_header(b"p", b"%011o\0" % 1_000_008, b"x"), b"1000008 size=" + b"9" * 999_994 + b"\n", bytes(56),
        _header(b"b.jpg", b"0" * 11 + b"\0")),
    "tar pax size of -512":
        _raw_tar(_header(b"p", b"%011o\0" % 13, b"x"), b"13 size=-512\n".ljust(512, b"\0"), _header(b"b.jpg",
        b"%011o\0" % 0)),
    "tar with ten thousand chained headers":
        _raw_tar((_header(b"l", b"%011o\0" % 5, b"L") + b"n.jpg".ljust(512, b"\0")) * 10_000),
    "tar with a sparse member": _raw_tar(_header(b"b.jpg", b"%011o\0" % 512, b"S"), bytes(512)),
    "tar of a hundred thousand empty members":
        _raw_tar(*[_header(b"m%d.jpg" % i, b"0" * 11 + b"\0") for i in range(100_000)]),
    "parquet of 40 GB in kilobytes": _parquet(_wide_parquet, compression="zstd"),
    "parquet of wrong types": _parquet(_typed_parquet),
    "parquet of three million equal captions": _many_rows,
    "parquet that is empty": _text("s.parquet", lambda: b""),
    "parquet with a footer of 4 GB": _text("s.parquet", lambda: b"PAR1" + bytes(100) + b"\xff\xff\xff\xffPAR1"),
    "a pipe with the name of a tar": lambda folder, _: _mode(folder, lambda p: os.mkfifo(p), "s.tar"),
    "a pipe with the name of a Parquet file": lambda folder, _: _mode(folder, lambda p: os.mkfifo(p), "s.parquet"),
    "endless zeros with the name of a CSV":
        lambda folder, _: _mode(folder, lambda p: p.symlink_to("/dev/zero"), "c.csv"),
    "endless zeros with the name of a tar":
        lambda folder, _: _mode(folder, lambda p: p.symlink_to("/dev/zero"), "s.tar"),
    "a folder with the name of a tar": lambda folder, _: _mode(folder, lambda p: p.mkdir(), "s.tar"),
    "a folder that links to itself": lambda folder, _: _mode(folder, lambda p: p.symlink_to(p), "loop"),
    "a name that no file can have": lambda folder, _: str(folder / ("x" * 9000)),
    "a name with a zero byte": lambda folder, _: f"{folder}\0",
}  # fmt: skip
