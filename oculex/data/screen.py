"""What is checked, and left out, before a decoder sees bytes from outside.

Pillow reads metadata that nobody here needs, and a crafted file can make that reading take gigabytes: every entry of an
EXIF or TIFF directory may claim the same stretch of the file. A crafted progressive JPEG of a few hundred kilobytes can
hold thousands of scans over 64 million pixels and take hours. So work is bounded by what a file declares (pixels, scans,
bytes that entries claim), not by a clock, which would make a run depend on how busy the machine is.
"""

from __future__ import annotations

import struct

MAX_SCANS = 128
"""Passes over the picture in a JPEG; progressive encoders make about ten."""
_ORIENTATION, _POINTERS = 0x0112, (0x8769, 0x8825, 0xA005)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_KEPT_APPS = (0xE0, 0xEE)
"""JFIF and Adobe, which say how the colours are coded."""
_GRAPHIC_CONTROL = 0xF9
"""The extension of a GIF that says how the next picture is shown."""


def jpeg(image: bytes) -> tuple[bytes, int]:
    """(the file without EXIF, colour profiles, previews and comments; its EXIF orientation, 1 to 8).

    Raises ValueError for more scans than ``MAX_SCANS``.
    """
    at, orientation, pieces, components, many = 2, 1, [image[:2]], 0, False
    while image[at : at + 1] == b"\xff" and at + 10 <= len(image):
        marker = image[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(image[at + 2 : at + 4], "big")
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and marker not in _KEPT_APPS):
            if marker == 0xE1 and image.startswith(b"Exif\0\0", at + 4):
                orientation = exif_orientation(image[at + 10 : end])
        elif 0xC0 <= marker <= 0xFD and marker not in (0xD8, 0xD9):
            pieces.append(image[at:end])
        else:
            break
        if marker in _FRAMES:
            components, many = image[at + 9], many or marker & 3 == 2  # progressive
        elif marker == 0xDA:  # the coded pixels follow
            many = many or image[at + 4] < components
            at = end
            break
        at = end
    if many and (scans := image.count(b"\xff\xda", at) + 1) > MAX_SCANS:
        raise ValueError(f"{scans} scans are over the limit of {MAX_SCANS}")
    return b"".join([*pieces, image[at:]]), orientation


def gif(image: bytes) -> bytes:
    """The file without the comments and application data before its first picture, which Pillow 12 joins piece by piece,
    in time that grows with their square."""
    at, pieces, size = 13, [], len(image)
    if size > 10 and image[10] & 0x80:  # a palette for all pictures
        at += 3 * (2 << (image[10] & 7))
    kept = 0
    while at + 2 < size and image[at] == 0x21:
        start, label = at, image[at + 1]
        at += 2
        while at < size and image[at]:
            at += 1 + image[at]
        at += 1
        if label != _GRAPHIC_CONTROL:
            pieces.append(image[kept:start])
            kept = min(at, size)
    return b"".join([*pieces, image[kept:]])


def exif_orientation(exif: bytes) -> int:
    """The orientation of a TIFF-like EXIF block; 1, upright, where there is none or it cannot be read."""
    try:
        order = "<" if exif[:2] == b"II" else ">"
        start = struct.unpack_from(f"{order}L", exif, 4)[0]
        for tag, _, _, entry in _entries(exif, order, start):
            if tag == _ORIENTATION:
                value = struct.unpack_from(f"{order}H", exif, entry + 8)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def tiff(image: bytes) -> None:
    """Raises ValueError where the entries of the first directory and its parts claim more bytes than the file has."""
    order = "<" if image[:2] == b"II" else ">"
    try:
        version, start = struct.unpack_from(f"{order}HL", image, 2)
        if version != 42:
            raise ValueError("BigTIFF is not read")
        claimed, parts = 0, {}
        for tag, kind, count, entry in _entries(image, order, start):
            claimed += _SIZES.get(kind, 1) * count
            if tag in _POINTERS:
                parts[tag] = struct.unpack_from(f"{order}L", image, entry + 8)[0]
        for part in parts.values():
            claimed += sum(_SIZES.get(kind, 1) * count for _, kind, count, _ in _entries(image, order, part))
    except struct.error:
        raise ValueError("its directory is cut off") from None
    if claimed > 2 * len(image):
        raise ValueError(f"its directory claims {claimed:,} bytes of a file of {len(image):,}")


def _entries(data: bytes, order: str, at: int) -> list[tuple[int, int, int, int]]:
    """(tag, kind, count, where) of a directory's entries."""
    count = struct.unpack_from(f"{order}H", data, at)[0]
    places = range(at + 2, at + 2 + 12 * count, 12)
    return [(*struct.unpack_from(f"{order}HHL", data, place), place) for place in places]  # type: ignore[misc]
