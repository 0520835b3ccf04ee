"""Contact sheets."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINE = 14
"""Height of a line of a caption, in pixels."""


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
    texts = [wrapped(text, width, font) for text in captions or ()]
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


def wrapped(
    text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, lines: int = 2
) -> list[str]:
    """At most ``lines`` lines of at most ``width`` pixels; what does not fit ends in an ellipsis."""
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if font.getlength(longer) <= width or not found[-1]:
            found[-1] = longer
        else:
            found.append(word)
    kept = found[:lines]
    if len(found) > lines:
        kept[-1] += "…"
    for index, line in enumerate(kept):
        while font.getlength(line) > width and len(line) > 1:
            line = line[:-2] + "…"
        kept[index] = line
    return kept
