"""How a language model goes on with a text."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from oculex import inference
from oculex.contracts import UserError
from oculex.data.views import captions
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf
from oculex.serve.speech import spoken
from oculex.serve.tabs.ask import SEEDS, TOKENS, settings


def continued(run: Opened, begun: str, most: int, temperature: float, seed: int) -> Iterator[str]:
    """What comes after a text, so far, again and again."""
    begun = parts.text(begun, "a text")
    most = parts.whole(most, "the most tokens", 1, TOKENS)
    temperature = parts.real(temperature, "the temperature", 0, 2)
    seed = parts.whole(seed, "the seed", 0, SEEDS)
    if not begun.strip():
        raise UserError("there is nothing to go on with; write how the text begins")
    views, say = inference.asked(run.system, run.name, (), begun)
    yield from spoken(run, run.collated(views), say, most, temperature, seed)


def panel(run: Opened, shelf: Shelf | None) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            begun = gr.Textbox(label="How it begins", placeholder="A red", lines=4)
            with gr.Row():
                go = gr.Button("Go on", variant="primary")
                end = gr.Button("Stop", variant="secondary")
            how = settings()
            texts = [[_beginning(captions(s)[0])] for s in run.examples() if captions(s)]
            parts.examples(texts, [begun], "Beginnings of held-out texts")
        with gr.Column(scale=1, min_width=320):
            said = gr.Textbox(
                label="How it goes on", lines=8, max_lines=24, buttons=["copy"], elem_id="continued"
            )
    about = "How the language model goes on with a text; a stream of what it has written so far."
    asked = parts.told_at_last(lambda *given: continued(run, *given))
    event = parts.ask(go, asked, (begun, *how), said, "continue_text", about)
    end.click(None, cancels=[event], api_visibility="private")


def _beginning(text: str) -> str:
    words = text.split()
    return " ".join(words[: max(1, len(words) // 3)])
