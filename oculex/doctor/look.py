"""A bounded, repeatable look at the data a run would use: some samples of the training part and of what it holds out."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from oculex.contracts import BadSample, Sample, Source
from oculex.data.decode import Encoded
from oculex.data.order import Permutation
from oculex.data.views import captions
from oculex.doctor.copies import THUMB, bits_of, thumb_of
from oculex.evaluation.statistics import Estimate, interval, wilson

TRAIN, HELD_OUT = "training", "held-out"
MOST = 4000
"""Samples looked at, of which at most a quarter are held out."""
KEPT = 256
"""Training samples kept in memory, on which rates are measured."""
_KEY = 0xD0C


@dataclass(frozen=True)
class Seen:
    """What is remembered of a sample. A sample without an image has no ``size``."""

    id: str
    part: str
    captions: tuple[str, ...] = ()
    digest: bytes = b""
    """Of the image's bytes."""
    size: tuple[int, int] = (0, 0)
    """Width, height in pixels, upright."""
    bits: int = 0
    """Perceptual hash."""
    thumb: np.ndarray | None = None
    """uint8 [THUMB, THUMB, 3]."""


@dataclass
class Look:
    """Everything seen, what could not be read, and out of how many samples."""

    of: dict[str, int]
    seen: list[Seen] = field(default_factory=list)
    bad: list[tuple[str, BadSample]] = field(default_factory=list)
    kept: list[Sample] = field(default_factory=list)
    read_seconds: list[float] = field(default_factory=list)
    """Of each sample that could be read, at its first touch."""
    seconds: float = 0.0

    def count(self, part: str) -> int:
        """Samples looked at, readable or not."""
        return sum(s.part == part for s in self.seen) + sum(p == part for p, _ in self.bad)

    def whole(self) -> bool:
        """Whether nothing was left out, so that a share is a count and no estimate."""
        return all(self.count(part) == total for part, total in self.of.items())

    def images(self) -> list[Seen]:
        return [s for s in self.seen if s.thumb is not None]

    def share(self, k: int, n: int) -> Estimate:
        """k of n samples, with Wilson's interval where the look was at a sample of the data."""
        value = k / n if n else 0.0
        low, high = (value, value) if self.whole() or not n else wilson(value, n)
        return Estimate(value, low, high, n)

    def caption_share(self, hits: Sequence[bool], of: Sequence[str]) -> Estimate:
        """A share of captions; the interval knows that captions of one image (``of``) belong together."""
        value = float(np.mean(hits)) if hits else 0.0
        if self.whole() or not hits:
            return Estimate(value, value, value, len(hits))
        return interval(np.asarray(hits, float), np.asarray(of), draws=500)


def look(train: Sequence[Source], held_out: Sequence[Source], seconds: float, most: int = MOST) -> Look:
    """Looks at up to ``most`` samples for up to ``seconds``, in an order that depends on the numbers of samples alone.

    Both parts are walked through side by side, so that a look cut short by time is short on both.
    """
    parts = {TRAIN: _Walk(train), HELD_OUT: _Walk(held_out)}
    found = Look({part: len(walk) for part, walk in parts.items() if len(walk)})
    held = min(len(parts[HELD_OUT]), most // 4)
    wanted = {TRAIN: min(len(parts[TRAIN]), most - held), HELD_OUT: held}
    for walk in parts.values():
        walk.prepare()
    begun = time.perf_counter()
    turns = sorted(((i + 0.5) / n, i, part) for part, n in wanted.items() for i in range(n))
    for _, index, part in turns:
        if time.perf_counter() - begun > seconds:
            break
        _look_at(found, part, parts[part], index)
    found.seconds = time.perf_counter() - begun
    return found


def _look_at(found: Look, part: str, walk: _Walk, index: int) -> None:
    begun = time.perf_counter()
    try:
        sample = walk[index]
        read = time.perf_counter() - begun
        seen = _seen(sample, part)
    except BadSample as bad:
        found.bad.append((part, bad))
        return
    found.read_seconds.append(read)
    found.seen.append(seen)
    if part == TRAIN and len(found.kept) < KEPT:
        found.kept.append(sample)


def _seen(sample: Sample, part: str) -> Seen:
    texts = tuple(captions(sample))
    if "image" not in sample:
        return Seen(sample["id"], part, texts)
    image = sample["image"]
    encoded = Encoded(image, sample["id"])
    picture, _ = encoded.decoded(min(encoded.size) / (2 * THUMB))
    raw = image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes()
    digest = hashlib.blake2b(raw, digest_size=16).digest()
    return Seen(sample["id"], part, texts, digest, encoded.size, bits_of(picture), thumb_of(picture))


class _Walk:
    """Samples of several sources in one fixed pseudo-random order."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.starts = np.concatenate([[0], np.cumsum([len(source) for source in sources])]).astype(int)
        self.order = Permutation(len(self), _KEY) if len(self) else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def prepare(self) -> None:
        """What a source does once (an index of shards, rendered scenes) is no part of reading its samples."""
        for source in self.sources:
            with contextlib.suppress(BadSample):
                source[0]

    def __getitem__(self, index: int) -> Sample:
        assert self.order is not None
        at = self.order(index)
        source = int(np.searchsorted(self.starts, at, side="right")) - 1
        return self.sources[source][at - int(self.starts[source])]
