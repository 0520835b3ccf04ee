"""Where the members of a tar lie. The standard library's reader can be led into endless loops and deep recursion by
crafted headers (negative sizes, chains of extensions) and keeps every member in memory; this one only goes forward."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oculex.contracts import UserError

_BLOCK = 512
_MAX_NAME = 4096
_MAX_EXTENSION = 1 << 20
"""Bytes of a pax or long-name header."""
_REGULAR, _FOLDER = (b"0", b"\0", b"7"), b"5"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_ALL = b"L", b"K", b"x", b"g"
_KINDS = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_PACKED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7z": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}


@dataclass(frozen=True)
class Member:
    name: str
    offset: int
    size: int
    wrong: str = ""
    """Why it cannot be read; empty for a whole regular file."""


def members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar in their order; a last one with ``wrong`` set where the tar is damaged.

    Raises UserError for a file that is no tar, and names the program that unpacks a compressed one.
    """
    try:
        with path.open("rb") as file:
            yield from _walk(path, file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _walk(path: Path, file: int, end: int) -> Iterator[Member]:
    at, name, size = 0, "", None  # name and size as an extension header gave them for the next member
    while len(header := os.pread(file, _BLOCK, at)) == _BLOCK and header.count(0) != _BLOCK:
        try:
            stored, kind = _checked(header)
        except ValueError:
            if at == 0:
                raise UserError(_no_tar(path, header)) from None
            yield Member(f"byte {at}", at, 0, "the tar is damaged from here on")
            return
        data = at + _BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_ALL):
            if stored > _MAX_EXTENSION or data + stored > end:
                yield Member(f"byte {at}", at, 0, "the tar is damaged from here on: a header without end")
                return
            content = os.pread(file, stored, data)
            if kind == _LONG_NAME:
                name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind == _PAX:
                fields = _pax(content)
                name = fields.get(b"path", b"").decode("utf-8", "surrogateescape") or name
                digits = fields.get(b"size", b"")
                size = int(digits) if digits.isdigit() and len(digits) < 20 else size
            at = data + -(-stored // _BLOCK) * _BLOCK
            continue
        stored, size = (stored if size is None else size), None
        called, name = (name or _name(header))[:_MAX_NAME], ""
        if kind != _FOLDER:
            wrong = "" if kind in _REGULAR else f"is {_KINDS.get(kind, 'no regular file')}"
            yield Member(
                called, data, stored, wrong or ("" if data + stored <= end else "the tar ends before it does")
            )
        # links, devices and folders have no content, whatever their size says
        at = data + (-(-stored // _BLOCK) * _BLOCK if kind in (*_REGULAR, b"S") else 0)
        if at > end:
            return
    if header.count(0) != len(header):
        if at == 0:
            raise UserError(_no_tar(path, header))
        yield Member(f"byte {at}", at, 0, "the tar ends before it does")


def _checked(header: bytes) -> tuple[int, bytes]:
    """(size, kind); ValueError where the checksum or a number is wrong."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if int(header[148:156].split(b"\0")[0].strip() or b"-1", 8) != total:
        raise ValueError("checksum")
    size = header[124:136]
    number = (
        int.from_bytes(size[1:], "big") if size[0] == 0x80 else int(size.split(b"\0")[0].strip() or b"0", 8)
    )
    if number < 0:
        raise ValueError("size")
    return number, header[156:157]


def _name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    whole = prefix + b"/" + name if header[257:263] == b"ustar\0" and prefix else name
    return whole.decode("utf-8", "surrogateescape")


def _pax(content: bytes) -> dict[bytes, bytes]:
    """ "LENGTH KEY=VALUE\\n" records; reading stops at the first that is malformed."""
    fields, at = {}, 0
    while at < len(content):
        digits, space, _ = content[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[at : at + length]
        if not space or length <= len(digits) + 1 or len(record) != length:
            break
        key, _, value = record[len(digits) + 1 : -1].partition(b"=")
        fields[key] = value
        at += length
    return fields


def _no_tar(path: Path, header: bytes) -> str:
    for magic, program in _PACKED.items():
        if header.startswith(magic):
            return (
                f"{path} is compressed, and shards are read at random places; unpack it once with `{program}`"
            )
    return f"{path} is not a tar"
