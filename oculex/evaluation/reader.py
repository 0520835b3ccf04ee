"""Samples on their way to a system: texts as a source, evaluation views read ahead, digests of views."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor

from oculex.contracts import BadSample, Sample, Source
from oculex.data.collate import Ragged, collate
from oculex.evaluation.cache import Item

AHEAD = 3
"""Batches read ahead."""


class Whole:
    """A source of questions, of which a limit takes nothing more: they were made of what it left of the data."""


class Texts(Whole):
    """Texts as a source, so that they take the same path as images."""

    classes: tuple[str, ...] = ()

    def __init__(self, texts: Sequence[str]) -> None:
        self.name, self.texts = "texts", list(texts)

    def fingerprint(self) -> str:
        return digest_of(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int, /) -> Sample:
        return {"id": str(index), "caption": self.texts[index]}


class Reader:
    """Samples of a source and their views. Sources promise nothing of threads, so one thread at a time reads;
    views (decoding, resizing) are made in parallel."""

    def __init__(
        self,
        source: Source,
        view: Callable[[Sample, None], dict[str, Any]],
        keys: tuple[str, ...] = (),
    ) -> None:
        """``keys``: what of a sample is looked at; none: its image, or else its caption."""
        self.source, self.view, self.keys, self.lock = source, view, keys, threading.Lock()

    def item(self, index: int) -> tuple[Item, dict[str, Any]]:
        with self.lock:
            sample = self.source[index]
        asked = (
            ("id", *self.keys) if self.keys else ("id", "image") if "image" in sample else ("id", "caption")
        )
        return item(sample), self.view({key: sample[key] for key in asked if key in sample}, None)

    def attempt(self, index: int) -> tuple[Item, dict[str, Any]] | BadSample:
        try:
            return self.item(index)
        except BadSample as bad:
            return bad

    def ahead(self, jobs: Iterable[list[int]], workers: int) -> Iterator[list[Any]]:
        """The jobs' samples in order, while the next jobs are being read."""
        pool = ThreadPoolExecutor(workers)
        window: deque[list[Future[Any]]] = deque()
        try:
            for job in jobs:
                window.append([pool.submit(self.attempt, int(index)) for index in job])
                if len(window) > AHEAD:
                    yield [future.result() for future in window.popleft()]
            while window:
                yield [future.result() for future in window.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)

    def sketch(self, indices: np.ndarray) -> str:
        """A digest of the first readable view: it changes where resizing or tokenising does."""
        for index in indices[:100]:
            answer = self.attempt(int(index))
            if not isinstance(answer, BadSample):
                return digest_of(collate([answer[1]]))
        return ""


def item(sample: Sample) -> Item:
    label = sample.get("label")
    captions = sample.get("captions") or ([sample["caption"]] if sample.get("caption") else [])
    return Item(str(sample["id"]), None if label is None else int(label), tuple(captions))


def digest_of(value: Any) -> str:
    """A digest of nested views: tensors and arrays by their bytes, the rest by how it prints."""
    digest = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in sorted(value.items()):
                add(key)
                add(entry)
        elif isinstance(value, Ragged):
            add([value.values, value.lengths])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for entry in value:
                add(entry)
        elif isinstance(value, (np.ndarray, Tensor)):
            array = np.ascontiguousarray(value.numpy() if isinstance(value, Tensor) else value)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(value).encode())

    add(value)
    return digest.hexdigest()
