"""Pictures that fit a text, or that are like another picture."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
from torch import Tensor

from oculex.contracts import EncodesImages, UserError
from oculex.data.views import captions
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf, by_text

MOST = 60
"""Hits."""


def text_to_pictures(run: Opened, shelf: Shelf, query: str, count: int) -> dict[str, Any]:
    """{"hits": [{"id", "score", "caption", "image"}, ...], "about"}, the best first."""
    query = parts.text(query, "a search").strip()
    if not query:
        raise UserError("there is nothing to search for; write a text")
    with run.asking():
        return _hits(shelf, run.system.encode_text(run.batch({"id": "the text", "caption": query})), count)


def picture_to_pictures(run: Opened, shelf: Shelf, picture: bytes | None, count: int) -> dict[str, Any]:
    """The same for what is like a picture."""
    sample = {"id": "the picture", "image": parts.given(picture)}
    with run.asking():
        system: Any = run.system
        encode = system.encode_image if isinstance(system, EncodesImages) else system.represent_image
        return _hits(shelf, encode(run.batch(sample)), count)


def _hits(shelf: Shelf, embedding: Tensor, count: int) -> dict[str, Any]:
    vector: np.ndarray = embedding[0].float().cpu().numpy()
    hits = shelf.nearest(vector, parts.whole(count, "how many", 1, MOST))
    found = [hit | {"shown": f"{hit['score']:.3f}".replace("-", "−")} for hit in hits]
    return {"hits": found, "about": f"Cosine similarity, the best of {len(shelf):,} pictures."}


def panel(run: Opened, shelf: Shelf | None) -> None:
    if shelf is None:
        gr.Markdown(
            "There are no pictures to search: start the page with `--images PATH` or `--index INDEX`."
        )
        return
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            if by_text(run.system):
                query = gr.Textbox(label="What is to be seen", placeholder="a red cube", lines=1)
                seek = gr.Button("Search by text", variant="primary")
                texts = [captions(sample)[:1] for sample in run.examples("image") if captions(sample)]
                parts.examples(texts, [query], "Held-out captions")
            picture = parts.upload(
                "Or a picture like which others are sought" if by_text(run.system) else "Picture"
            )
            look = gr.Button("Search by picture", variant="secondary" if by_text(run.system) else "primary")
            parts.examples(
                [parts.first(s, ()) for s in run.examples("image")], [picture], "Held-out pictures"
            )
            count = gr.Slider(1, MOST, 12, step=1, label="How many")
        with gr.Column(scale=2, min_width=320):
            found = parts.laid_out(parts.HITS, elem_id="found")
    if by_text(run.system):
        about = "Pictures that fit a text, the best first, with their cosine similarity."
        by_query = parts.told(lambda query, count: text_to_pictures(run, shelf, query, count))
        parts.ask(seek, by_query, (query, count), found, "search_text", about)
        query.submit(by_query, [query, count], found, api_visibility="private", concurrency_id=parts.MODEL)
    like = parts.told(lambda picture, count: picture_to_pictures(run, shelf, picture, count))
    parts.ask(look, like, (picture, count), found, "search_picture", "Pictures that are like another one.")
