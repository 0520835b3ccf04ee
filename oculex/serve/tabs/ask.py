"""What a system says about a picture: a description, or the answer to a question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from oculex import inference
from oculex.contracts import UserError
from oculex.serve import parts
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf
from oculex.serve.speech import spoken

TOKENS = 512
SEEDS = 2**31 - 1


def answer(
    run: Opened, picture: bytes | None, question: str, most: int, temperature: float, seed: int
) -> Iterator[str]:
    """The answer so far, again and again. Without a question the picture is described; without a picture the system is
    asked blindly."""
    file = parts.loaded(picture)
    images = [] if file is None else [("the picture", file)]
    question = parts.text(question, "a question")
    most = parts.whole(most, "the most tokens", 1, TOKENS)
    temperature = parts.real(temperature, "the temperature", 0, 2)
    seed = parts.whole(seed, "the seed", 0, SEEDS)
    if not images and not question.strip():
        raise UserError("there is nothing to answer; upload a picture, write a question, or both")
    views, say = inference.asked(run.system, run.name, images, question)
    yield from spoken(run, run.collated(views), say, most, temperature, seed)


def settings() -> tuple[Any, ...]:
    """How a text is written: the most tokens, the temperature, the seed."""
    with gr.Accordion("How it is written", open=False):
        return (
            gr.Slider(1, TOKENS, 64, step=1, label="Most tokens"),
            gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0 takes the likeliest word each time."),
            gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=SEEDS, info="Of what is drawn above 0."
            ),
        )


def panel(run: Opened, shelf: Shelf | None) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            picture = parts.upload()
            question = gr.Textbox(
                label="Question", placeholder="Without a question the picture is described.", lines=2
            )
            with gr.Row():
                go = gr.Button("Ask", variant="primary")
                end = gr.Button("Stop", variant="secondary")
            how = settings()
            rows = [parts.first(s, [_question(s)]) for s in run.examples("image")]
            if any(asked for _, asked in rows):
                parts.examples(rows, [picture, question], "Held-out samples")
            else:
                parts.examples([row[:1] for row in rows], [picture], "Held-out pictures")
        with gr.Column(scale=1, min_width=320):
            said = gr.Textbox(label="Answer", lines=8, max_lines=24, buttons=["copy"], elem_id="answer")
    about = "The answer to a question about a picture, or its description; a stream of the text so far."
    asked = parts.told_at_last(lambda *given: answer(run, *given))
    event = parts.ask(go, asked, (picture, question, *how), said, "answer", about)
    end.click(None, cancels=[event], api_visibility="private")


def _question(sample: Any) -> str:
    """The first one of a sample that has some."""
    return next((each["question"] for each in sample.get("questions") or ()), "")
