"""Texts as they are written: each word is there when the model has chosen it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import torch

from oculex.contracts import Batch, Tokenizer
from oculex.nn.language.generate import Choice, choosing
from oculex.serve.opened import Opened


class _NoLonger(Exception):
    """Nobody listens any more."""


def spoken(
    run: Opened,
    batch: Batch,
    say: Callable[[Batch, int], list[str]],
    most: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """The text so far, again and again, and at last the whole one, as ``say`` gives it.

    The model writes in a thread of its own, which ends where the iterator is closed. A system whose texts do not come
    token by token gives the whole one alone.
    """
    told: SimpleQueue[Any] = SimpleQueue()
    heard = threading.Event()
    tokenizer = getattr(run.system, "tokenizer", None)

    def listen(texts: list[list[int]]) -> None:
        if heard.is_set():
            raise _NoLonger
        if isinstance(tokenizer, Tokenizer):
            told.put(tokenizer.decode([token for token in texts[0] if token < tokenizer.size]))

    def write() -> None:
        try:
            generator = torch.Generator(run.device).manual_seed(seed)
            with run.asking(), choosing(Choice(temperature, generator, listen)):
                told.put((say(batch, most)[0],))
        except _NoLonger:
            pass
        except BaseException as error:
            told.put(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        while not isinstance(item := told.get(), tuple):
            if isinstance(item, BaseException):
                raise item
            yield item
        yield item[0]
    finally:
        heard.set()
        writer.join()
