"""Encoded images to pixels. Bytes from outside are hostile until parsed: whatever is wrong becomes BadSample."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, ImageOps

from oculex.contracts import BadSample

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""

ImageFile.LOAD_TRUNCATED_IMAGES = False


def opened(image: bytes | np.ndarray, key: str, at_least: int | None = None) -> Image.Image:
    """An RGB picture; alpha is laid on white, EXIF orientation applied, 16-bit grey scaled to 8.

    ``at_least``: a JPEG is decoded at 1/2, 1/4 or 1/8 as long as both sides keep that many pixels.
    Raises BadSample for anything that is not a whole picture of an allowed format and size.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise BadSample(key, f"an image array must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
        return Image.fromarray(image)
    if not isinstance(image, bytes):
        raise BadSample(key, f"an image must be bytes or an array, got {type(image).__name__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(image), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BadSample(key, f"{width} x {height} pixels are over the limit of {MAX_PIXELS:,}")
            if at_least is not None and picture.format == "JPEG":
                picture.draft("RGB", (at_least, at_least))
            return _rgb(ImageOps.exif_transpose(picture))
    except BadSample:
        raise
    except Exception as error:  # decoders raise a dozen kinds, and each means the same here
        raise BadSample(key, f"not a readable image: {type(error).__name__}: {str(error)[:80]}") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")
