"""What the tabs are made of: uploads that are trusted with nothing, mistakes as one line, results as JSON and how they
are shown.

A result is a plain JSON value, which is what a program gets over HTTP; a template lays it out in the browser and
escapes every text in it.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from PIL import Image

from oculex.contracts import UserError
from oculex.serve import MOST_BYTES

P = ParamSpec("P")
R = TypeVar("R")

MODEL = "model"
"""What all events that ask the model wait in line for."""


def upload(label: str = "Picture") -> Any:
    """A picture as the bytes of its file, which no one has decoded yet; None where there is none.

    Gradio's own component would decode it by Pillow alone, and fetch what is named by an address. Its methods are
    replaced on the instance, because Gradio writes a file beside each module that has a component's subclass.
    """
    made: Any = gr.Image(
        label=label, type="filepath", image_mode=None, format="png", sources=["upload", "clipboard"],
        buttons=["fullscreen"], height=260, elem_classes="upload",
    )  # fmt: skip
    keep = made.async_move_resource_to_block_cache

    async def keep_files(path: Any) -> Any:
        if path is not None and "://" in str(path):
            raise _error("a picture has to be uploaded; addresses are not fetched")
        return await keep(path)

    made.async_move_resource_to_block_cache = keep_files
    made.preprocess = _bytes
    return made


def _bytes(payload: Any) -> bytes | None:
    """Of a file that Gradio has found to be in its folder of uploads."""
    if payload is None:
        return None
    if not payload.path or "://" in payload.path:
        raise _error("a picture has to be uploaded as a file")
    return _read(Path(payload.path))


def _read(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise _error(f"a picture has at most {MOST_BYTES // 1_000_000} MB")
    return path.read_bytes()


def loaded(picture: bytes | str | None) -> bytes | None:
    """The picture, which Gradio gives by its path once an example was taken: it then makes the component again, and what
    was replaced on the instance is lost. It has found the path to be in its folder of uploads."""
    return _read(Path(picture)) if isinstance(picture, str) else picture


def given(picture: bytes | str | None) -> bytes:
    """The picture; UserError where there is none."""
    found = loaded(picture)
    if found is None:
        raise UserError("there is no picture yet; upload one, or take an example")
    return found


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A whole number in low..high, for what comes over HTTP is not what the slider allows; UserError otherwise."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or value != value
        or not low <= value <= high
    ):
        raise UserError(f"{name} is a number from {low:,} to {high:,}, not {value!r}")
    return int(value)


def real(value: Any, name: str, low: float, high: float) -> float:
    """A number in low..high; UserError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{name} is a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


LONGEST = 4000
"""Characters of a text."""


def text(value: Any, name: str) -> str:
    """A text that is not too long; UserError otherwise."""
    if not isinstance(value, str):
        raise UserError(f"{name} is a text")
    if len(value) > LONGEST:
        raise UserError(f"{name} has {len(value):,} characters; {LONGEST:,} are the most")
    return value


def lines(value: str, most: int) -> list[str]:
    """Different texts, one a line or between commas; UserError for more than ``most``."""
    parts = (part.strip() for line in value.splitlines() for part in line.split(","))
    found = list(dict.fromkeys(part for part in parts if part))
    if len(found) > most:
        raise UserError(f"these are {len(found):,}; {most:,} are the most")
    return found


def told(function: Callable[P, R]) -> Callable[P, R]:
    """A user's mistake becomes the line that the page shows, and that a program gets as the error's text."""

    @functools.wraps(function)
    def answered(*given: P.args, **named: P.kwargs) -> R:
        try:
            return function(*given, **named)
        except UserError as error:
            raise _error(str(error)) from None

    return answered


def told_at_last(function: Callable[P, Iterator[R]]) -> Callable[P, Iterator[R]]:
    """The same of what answers little by little."""

    @functools.wraps(function)
    def answered(*given: P.args, **named: P.kwargs) -> Iterator[R]:
        try:
            yield from function(*given, **named)
        except UserError as error:
            raise _error(str(error)) from None

    return answered


def _error(line: str) -> gr.Error:
    return gr.Error(html.escape(line, quote=False), duration=20, print_exception=False)


def ask(
    button: Any, function: Callable[..., Any], inputs: Sequence[Any], outputs: Any, name: str, about: str
) -> Any:
    """A button asks the model, one question at a time; ``name`` is what a program calls it by, ``about`` what it reads
    of it."""
    return button.click(
        function, list(inputs), outputs, api_name=name, api_description=about, concurrency_id=MODEL, concurrency_limit=1,
        show_progress="minimal",
    )  # fmt: skip


def examples(rows: Sequence[Sequence[Any]], inputs: Sequence[Any], label: str) -> None:
    """Held-out samples that fill the inputs at a click; nothing where there are none."""
    if rows:
        gr.Examples(
            [list(row) for row in rows], list(inputs), label=label, api_visibility="private", preload=False
        )


def shown(picture: Image.Image, side: int = 384) -> Image.Image:
    """A picture of at most ``side`` pixels."""
    smaller = picture.copy()
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    return smaller


HITS = """
{{#if value.hits}}<ol class="hits">{{#each value.hits}}<li>
{{#if image}}<img src="{{image}}" alt="{{caption}}">{{else}}<div class="none">no picture</div>{{/if}}
<b>{{shown}}</b><span>{{caption}}</span><small>{{id}}</small>
</li>{{/each}}</ol><p class="fine">{{value.about}}</p>{{else}}<p class="empty">What is found appears here.</p>{{/if}}
"""
BARS = """
{{#if value.rows}}<ol class="bars">{{#each value.rows}}<li>
<span>{{name}}</span><i><em style="width: {{width}}%"></em></i><b>{{shown}}</b>
</li>{{/each}}</ol><p class="fine">{{value.about}}</p>{{else}}<p class="empty">The answer appears here.</p>{{/if}}
"""
PHRASES = """
{{#if value.phrases}}<ol class="phrases">{{#each value.phrases}}<li>
<u style="background: {{colour}}"></u><span>{{phrase}}</span><b>{{shown}}</b>
</li>{{/each}}</ol><p class="fine">{{value.about}}</p>{{/if}}
"""


def inert(value: Any) -> Any:
    """The value with ``${`` of all its texts, and names, parted."""
    if isinstance(value, str):
        return value.replace("${", "$\u2060{")
    if isinstance(value, Mapping):
        return {inert(name): inert(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [inert(each) for each in value]
    return value


def laid_out(template: str, **more: Any) -> Any:
    """A result under a template. What Handlebars made of it Gradio evaluates as a JavaScript template, so no text may
    hold what opens an expression there: a word joiner, which is not seen, parts it."""
    made: Any = gr.HTML(value={}, html_template=template, js_on_load=None, **more)
    send = made.postprocess
    made.postprocess = lambda value: send(inert(value))
    return made


def first(sample: Mapping[str, Any], texts: Sequence[str]) -> list[Any]:
    """An example's picture with texts beside it."""
    from oculex.serve.opened import pixels

    return [shown(pixels(sample)), *texts]
