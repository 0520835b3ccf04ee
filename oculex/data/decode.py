"""Encoded images to pixels. Bytes from outside are hostile until parsed: whatever is wrong becomes BadSample."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from oculex.contracts import BadSample
from oculex.data import screen

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded; of an animation the first frame alone is."""
_STRIP = 1 << 22
"""Pixels of deep images converted at a time."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of that EXIF orientation upright."""

ImageFile.LOAD_TRUNCATED_IMAGES = False
warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow warns of is an error here, or of no concern


class Encoded:
    """An image whose header was read: its upright ``size``, (width, height), is known, its pixels are not yet.

    Raises BadSample for anything that is not a picture of an allowed format and size.
    """

    def __init__(self, image: bytes | np.ndarray, key: str) -> None:
        self.key, self._orientation = key, 1
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise BadSample(
                    key, f"an image array must be uint8 [H, W, 3], got {image.dtype} {image.shape}"
                )
            self._picture = Image.fromarray(image)
        elif isinstance(image, bytes):
            with _named(key):
                self._picture = self._header(image)
        else:
            raise BadSample(key, f"an image must be bytes or an array, got {type(image).__name__}")
        width, height = self._picture.size
        self.size = (height, width) if self._orientation > 4 else (width, height)

    def _header(self, image: bytes) -> Image.Image:
        if image[:2] == b"\xff\xd8":
            image, self._orientation = screen.jpeg(image)
        elif image[:2] in (b"II", b"MM"):
            screen.tiff(image)
        elif image[:4] == b"GIF8":
            image = screen.gif(image)
        picture = Image.open(io.BytesIO(image), formats=FORMATS)
        width, height = picture.size
        if width * height > MAX_PIXELS or _tile(picture) > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels are over the limit of {MAX_PIXELS:,}")
        if "exif" in picture.info:  # not of a JPEG, whose was taken off; a TIFF's own is applied by Pillow
            self._orientation = screen.exif_orientation(picture.info["exif"].removeprefix(b"Exif\0\0"))
        return picture

    def decoded(self, shrink: float = 1.0) -> tuple[Image.Image, int]:
        """(an RGB picture, by how much it is smaller than ``size``).

        Alpha is laid on white, EXIF orientation applied, 16-bit grey scaled to 8. A JPEG is decoded at 1/2, 1/4 or
        1/8 of its size, which costs a fraction, where ``shrink`` is at least 2, 4 or 8. Raises BadSample for what is
        not whole.
        """
        picture, smaller = self._picture, 1
        with _named(self.key):
            if shrink >= 2 and picture.format == "JPEG":
                smaller = 1 << min(3, int(math.log2(shrink)))
                picture.draft("RGB", (picture.width // smaller, picture.height // smaller))
            picture = _rgb(picture)
        turn = _TURNS.get(self._orientation)
        return (picture.transpose(turn) if turn is not None else picture), smaller


def opened(image: bytes | np.ndarray, key: str, at_least: int | None = None) -> Image.Image:
    """The whole RGB picture, as ``Encoded.decoded`` makes it; raises BadSample as it does.

    ``at_least``: a JPEG may be decoded smaller as long as both sides keep that many pixels.
    """
    encoded = Encoded(image, key)
    return encoded.decoded(min(encoded.size) / at_least if at_least else 1.0)[0]


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise BadSample(key, f"not a readable image: it is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders raise a dozen kinds, and each means the same here
        raise BadSample(key, f"not a readable image: {type(error).__name__}: {str(error)[:80]}") from error


def _tile(picture: Image.Image) -> int:
    """Pixels of a TIFF's tiles, which may be larger than the picture and are decoded whole."""
    tags = getattr(picture, "tag_v2", {})
    return int(tags.get(322, 0)) * int(tags.get(323, 0))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        ground = Image.new("RGB", picture.size, (255, 255, 255))
        picture = picture.convert("RGBA")
        ground.paste(picture, mask=picture)
        return ground
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of more bits, strip by strip, because floats take eight times the memory."""
    picture.load()
    deep = np.asarray(picture)
    top = 65535.0 if np.nanmax(deep, initial=0) > 255 else 255.0
    grey = np.empty(deep.shape, np.uint8)
    rows = max(1, _STRIP // max(1, deep.shape[1]))
    for start in range(0, len(deep), rows):
        strip = np.nan_to_num(deep[start : start + rows].astype(np.float32))
        grey[start : start + rows] = (strip / top * 255).clip(0, 255)
    return Image.fromarray(grey)
