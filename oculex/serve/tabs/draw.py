"""Pictures of a text."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from oculex import inference
from oculex.data.views import captions
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf
from oculex.serve.tabs.ask import SEEDS

MOST = 8
"""Pictures at once."""
SIDE = 256
"""Smaller ones are enlarged to about this, in whole steps."""


def pictures(
    run: Opened, text: str, count: int, seed: int, guidance: float | None
) -> list[tuple[Image.Image, str]]:
    """``count`` pictures, of ``seed`` and the seeds after it, each with its seed in words."""
    text = parts.text(text, "what is drawn")
    count, seed = parts.whole(count, "how many", 1, MOST), parts.whole(seed, "the seed", 0, SEEDS)
    if guidance is not None:
        guidance = parts.real(guidance, "the guidance", 0, 20)
    with run.asking():
        drawn = [inference.painted(run.system, run.name, text, seed + n, guidance) for n in range(count)]
    return [(_enlarged(each), f"seed {seed + n}") for n, each in enumerate(drawn)]


def _enlarged(picture: np.ndarray) -> Image.Image:
    """As it is, or each pixel a square of several, so that a browser does not blur it."""
    times = max(1, SIDE // max(picture.shape[:2]))
    return Image.fromarray(picture.repeat(times, 0).repeat(times, 1))


def panel(run: Opened, shelf: Shelf | None) -> None:
    configured: Any = getattr(run.system.config, "guidance", None)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            text = gr.Textbox(label="What is to be drawn", placeholder="a red cube", lines=2)
            go = gr.Button("Draw", variant="primary")
            count = gr.Slider(1, MOST, 4, step=1, label="How many")
            seed = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=SEEDS, info="Of the first picture."
            )
            guidance = gr.Slider(
                0, 20, configured or 0, step=0.1, label="Guidance", visible=configured is not None,
                info="How closely the picture keeps to the text; 1 is no guidance.",
            )  # fmt: skip
            texts = [[captions(s)[0]] for s in run.examples() if captions(s)]
            parts.examples(texts, [text], "Held-out captions")
        with gr.Column(scale=2, min_width=320):
            drawn = gr.Gallery(
                label="Pictures", columns=4, height="auto", object_fit="contain", format="png", elem_id="drawn",
                buttons=["download", "fullscreen"], interactive=False,
            )  # fmt: skip

    @parts.told
    def asked(text: str, count: int, seed: int, guidance: float) -> Any:
        return pictures(run, text, count, seed, guidance if configured is not None else None)

    parts.ask(
        go, asked, (text, count, seed, guidance), drawn, "draw", "Pictures of a text, each with its seed."
    )
