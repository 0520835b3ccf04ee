"""What an encoder sees in a picture: its patches' main components, and what its class token attends to."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from oculex.report.features import resized, rows
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf

SIDE = 320
NAMES = {
    "picture": "as it is seen",
    "components": "components of its patches",
    "attention": "the class token's attention",
}


def pictures(run: Opened, picture: bytes | None) -> list[tuple[Image.Image, str]]:
    """The picture as the system gets it, and what ``oculex.report.features.rows`` has of it, with their names."""
    sample = {"id": "the picture", "image": parts.given(picture)}
    with run.asking():
        found = rows(run.system, run.batch(sample))
    return [(Image.fromarray(resized(each[0], SIDE)), NAMES[name]) for name, each in found.items()]


def panel(run: Opened, shelf: Shelf | None) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = parts.upload()
            go = gr.Button("Look", variant="primary")
            parts.examples(
                [parts.first(s, ()) for s in run.examples("image")], [picture], "Held-out pictures"
            )
        with gr.Column(scale=2, min_width=320):
            seen = gr.Gallery(
                label="Features", columns=3, height="auto", object_fit="contain", format="png", elem_id="features",
                buttons=["download", "fullscreen"], interactive=False,
            )  # fmt: skip
    asked = parts.told(lambda picture: pictures(run, picture))
    about = "The picture as it is seen, the components of its patches, and the attention, each with its name."
    parts.ask(go, asked, (picture,), seen, "features", about)
