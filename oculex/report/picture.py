"""Pictures for pages: thumbnails as data URIs, contact sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINE = 14
"""Height of a line of a caption, in pixels."""


def thumbnail(picture: np.ndarray | Image.Image, side: int = 160) -> str:
    """A uint8 [H, W, 3] array or a picture as a WebP data URI whose longer side is at most ``side``."""
    small = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=86, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(
    images: np.ndarray, columns: int, captions: Sequence[str] | None = None, gap: int = 8
) -> bytes:
    """uint8 [n, H, W, 3] as a PNG of ``columns`` columns on white; captions of up to two lines below.

    Raises ValueError where there are not as many captions as images.
    """
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} images need as many captions, got {len(captions)}")
    n, height, width, _ = images.shape
    font = ImageFont.load_default(11)
    texts = [_wrapped(text, width, font) for text in captions or ()]
    below = LINE * max(map(len, texts), default=0) + (4 if texts else 0)
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    size = (columns * (width + gap) - gap, max(1, rows * (height + below + gap) - gap))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left, top = index % columns * (width + gap), index // columns * (height + below + gap)
        sheet.paste(Image.fromarray(image), (left, top))
        for row, line in enumerate(texts[index] if texts else ()):
            pen.text((left, top + height + 3 + row * LINE), line, fill=(70, 76, 84), font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """At most two lines of at most ``width`` pixels; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:2]
    if len(lines) > 2:
        kept[-1] += "…"
    for index, line in enumerate(kept):
        while font.getlength(line) > width and len(line) > 1:
            line = line[:-2] + "…"
        kept[index] = line
    return kept
