"""Where the things are that a phrase means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from oculex.contracts import UserError
from oculex.data.boxes import joined
from oculex.data.decode import opened as decoded
from oculex.evaluation.drawn import COLOURS
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf

PHRASES = 50
BOXES = 10
"""Most of a phrase."""
SIDE = 512
"""Longer side of the picture that is shown, at least."""
_MARKED = re.compile(r"\[([^\[\]]+)\]")


def grounded(text: str) -> Mapping[str, Any]:
    """A text with phrases, as samples hold it: those in [brackets] of a sentence, or else a phrase a line or between
    commas. UserError where there is none."""
    if "[" in text or "]" in text:
        plain, spans, at = "", [], 0
        for mark in _MARKED.finditer(text):
            plain += text[at : mark.start()]
            spans.append([[len(plain), len(plain) + len(mark[1])]])
            plain, at = plain + mark[1], mark.end()
        plain += text[at:]
        if "[" in plain or "]" in plain:
            raise UserError("a bracket is open or stands in another one; write: [a red ball] beside [a cube]")
    else:
        plain, spans = joined(parts.lines(text, PHRASES))
    if not spans:
        raise UserError(
            "there is nothing to find; write phrases, one a line, or a sentence with them in [brackets]"
        )
    return {"kind": "phrases", "text": plain, "spans": spans, "boxes": [[] for _ in spans]}


def boxes(
    run: Opened, picture: bytes | None, text: str, most: int, least: float
) -> tuple[Image.Image, dict[str, Any]]:
    """The picture with the boxes in it, and {"phrases": [{"phrase", "boxes": [[x0, y0, x1, y1], ...] in pixels,
    "scores", "colour", "shown"}, ...], "about"}: the ``most`` best boxes of each phrase, of those that score ``least``.
    """
    given = parts.given(picture)
    asked = grounded(parts.text(text, "what is to be found"))
    most, least = parts.whole(most, "the most boxes", 1, BOXES), parts.real(least, "the least score", 0, 1)
    if not run.system.reads(asked):
        raise UserError("this is more than it reads at once; ask for fewer or shorter phrases")
    with run.asking():
        batch = run.batch({"id": "the picture", "image": given, "grounded": [asked]})
        found = run.system.ground(batch, most)[0].float().cpu().numpy()
    shown = decoded(given, "the picture")
    phrases = [
        _phrase(" ".join(asked["text"][a:b] for a, b in spans), n, rows, least, shown.size)
        for n, (spans, rows) in enumerate(zip(asked["spans"], found, strict=False))
    ]
    return _drawn(shown, phrases), {
        "phrases": phrases,
        "about": f"The score of the best box; {least:g} or more is shown.",
    }


def _phrase(
    phrase: str, number: int, rows: np.ndarray, least: float, size: tuple[int, int]
) -> dict[str, Any]:
    kept = rows[np.isfinite(rows).all(1) & (rows[:, 4] >= least)]
    return {
        "phrase": phrase,
        "boxes": np.round(kept[:, :4] * np.tile(size, 2), 2).tolist(),
        "scores": np.round(kept[:, 4].astype(float), 4).tolist(),
        "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[number % len(COLOURS)]),
        "shown": f"{kept[0, 4]:.2f}" if len(kept) else "not found",
    }


def _drawn(picture: Image.Image, phrases: list[dict[str, Any]]) -> Image.Image:
    """Enlarged where it is small, so that lines do not cover what they surround; the best box of a phrase is thicker."""
    scale = max(1.0, SIDE / max(picture.size))
    shown = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(shown)
    for phrase in phrases:
        for rank, box in reversed(list(enumerate(phrase["boxes"]))):
            x0, y0, x1, y1 = (edge * scale for edge in box)
            pen.rectangle(
                (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=phrase["colour"], width=2 if rank else 4
            )
    return shown


def panel(run: Opened, shelf: Shelf | None) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = parts.upload()
            text = gr.Textbox(
                label="What is to be found", lines=3, placeholder="a red ball\na cube",
                info="A phrase a line, or a sentence with phrases in [brackets].",
            )  # fmt: skip
            go = gr.Button("Find", variant="primary")
            most = gr.Slider(1, BOXES, 1, step=1, label="Boxes of a phrase")
            least = gr.Slider(0, 1, 0, step=0.01, label="Least score")
            rows = [
                parts.first(s, [_marked(s["grounded"][0])])
                for s in run.examples("image", "grounded")
                if s["grounded"]
            ]
            parts.examples(rows, [picture, text], "Held-out samples")
        with gr.Column(scale=1, min_width=320):
            shown = gr.Image(
                label="Found",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id="boxes",
            )
            found = parts.laid_out(parts.PHRASES, elem_id="phrases")
    about = "Boxes of the phrases in a picture: the picture with the boxes in it, and the boxes in pixels."
    asked = parts.told(lambda *given: boxes(run, *given))
    parts.ask(go, asked, (picture, text, most, least), [shown, found], "find", about)


def _marked(text: Mapping[str, Any]) -> str:
    """A grounded text with its phrases in brackets; phrases that lie in others, or in parts, are left as they are."""
    out, at = "", 0
    for (start, end), *rest in sorted(text["spans"]):
        if start >= at and not rest:
            out += f"{text['text'][at:start]}[{text['text'][start:end]}]"
            at = end
    return out + text["text"][at:]
