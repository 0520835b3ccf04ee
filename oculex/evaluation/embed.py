"""What a system makes of sources and texts, asked once: embeddings, scores, answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import BadSample, Batch, Sample, Source, UserError
from oculex.data.collate import collate, to
from oculex.evaluation.cache import Item
from oculex.evaluation.compute import Computing
from oculex.evaluation.reader import Reader, Texts, digest_of, item

TILE = 32
"""Images whose pairs with all texts are scored together."""
_TRUTHS = ("semantic",)
"""Keys of a sample that are compared with answers of its size."""
WORDS = 1024
"""Most words of an image that are kept."""
LONGEST = 1024
"""Bytes of an answer."""


@dataclass(frozen=True)
class Embeddings:
    """Rows in the order of the source; unreadable samples have none and are listed in ``bad``."""

    values: np.ndarray
    """float32 [n, D]."""
    items: tuple[Item, ...]
    bad: tuple[tuple[str, str], ...]

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]


def embed(
    system: Any,
    source: Source,
    what: str = "image",
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
    precision: str = "32-true",
    cache: Path | None = None,
    limit: int | None = None,
) -> tuple[list[str], np.ndarray]:
    """(ids, float32 [n, D]) of a source's images ("image", "represent"), captions ("text"), or one of the system's
    ``modalities``.

    Raises ``UserError`` where a sample cannot be read; ``Embedder`` lists such samples instead.
    """
    embedder = Embedder(system, batch=batch, device=device, precision=precision, cache=cache, limit=limit)
    if what == "text":
        texts = [(item.id, item.captions) for item in embedder.items(source)]
        ids = [name for name, captions in texts for _ in captions]
        return ids, embedder.texts([caption for _, captions in texts for caption in captions])
    known = {"image": embedder.images, "represent": embedder.represent}
    found = known[what](source) if what in known else embedder.modalities(source, [what])
    if found.bad:
        raise UserError(
            f"{source.name}: {len(found.bad)} unreadable samples, first {': '.join(found.bad[0])}"
        )
    return found.ids, found.values


class Embedder:
    """A system in evaluation mode, asked for embeddings of sources and texts; what was asked once is
    remembered.

    Under ``torch.distributed`` every rank computes its share of the chunks and receives all of them.
    """

    def __init__(
        self,
        system: Any,
        *,
        batch: int = 256,
        device: torch.device | str | None = None,
        precision: str = "32-true",
        workers: int | None = None,
        cache: Path | None = None,
        limit: int | None = None,
    ) -> None:
        self.computing = Computing(system, device, precision, workers, cache, limit)
        self.system, self.batch = system, batch
        self.device, self.model = self.computing.device, self.computing.model
        self._known: dict[tuple[str, str, str], Embeddings] = {}

    def images(self, source: Source) -> Embeddings:
        """Image embeddings in the space shared with text."""
        return self._embed(source, "image", self.system.encode_image)

    def represent(self, source: Source) -> Embeddings:
        """Image features for probes."""
        return self._embed(source, "represent", self.system.represent_image)

    def logits(self, source: Source) -> Embeddings:
        """What the system's own classifier says, [images, classes]."""
        return self._embed(source, "logits", self.system.classify)

    def asked_of(
        self, other: Callable[[], Callable[[Batch], Tensor]], what: str, against: str, source: Source
    ) -> Embeddings:
        """What another network, made of the system where it is needed, says of the system's own views of the images.

        ``what`` and ``against`` tell it from others in the cache.
        """
        made = once(other)
        return self._embed(source, what, lambda batch: made()(batch), against)

    def modalities(self, source: Source, names: Sequence[str]) -> Embeddings:
        """Embeddings of several keys of a sample, one after the other, [n, len(names) * D]; a sample that lacks one is
        bad."""

        def view(sample: Sample, rng: None) -> dict[str, Any]:
            lacking = [name for name in names if name not in sample]
            if lacking:
                raise BadSample(
                    sample["id"], f"has no {' and no '.join(lacking)}, which others of its source have"
                )
            return self.system.view(sample, None)

        def encode(batch: Batch) -> Tensor:
            return torch.cat([self.system.encode_modality(name, batch).float() for name in names], dim=1)

        return self._embed(source, "+".join(names), encode, view=view, keys=tuple(names))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Text embeddings float32 [n, D]; equal texts are computed once."""
        return self._texts(texts, "text", self.system.encode_text)

    def likelihoods(self, texts: Sequence[str]) -> np.ndarray:
        """Log-likelihood and number of tokens of each text, float32 [n, 2]."""
        return self._texts(texts, "likelihood", self.system.log_likelihood)

    def _texts(self, texts: Sequence[str], what: str, function: Callable[[Batch], Tensor]) -> np.ndarray:
        unique = sorted(set(texts))
        found = self._embed(Texts(unique), what, function)
        row = {text: n for n, text in enumerate(unique)}
        return found.values[[row[text] for text in texts]]

    def scores(self, source: Source, texts: Sequence[str]) -> Embeddings:
        """How well each text fits each image, [images, texts], from a system that looks at pairs.

        The system gets all texts at once, so that it encodes an image once and divides the texts as it can hold them.
        """
        asked = self._asked(texts)

        def score(images: Batch) -> Tensor:
            return self.system.score_texts(images, asked).float()

        return self._embed(source, "scores", score, against=digest_of(list(texts)), batch=TILE)

    def own_scores(
        self, source: Source, texts: Mapping[str, Sequence[str]], capability: str = "score_texts"
    ) -> Embeddings:
        """How well the texts that are given for an image's id fit it, [images, most texts], from a system that looks at
        pairs; NaN where an image has fewer. ``capability``: which of the system's methods says so."""
        most, rate = max(map(len, texts.values()), default=0), getattr(self.system, capability)

        def view(sample: Sample, rng: None) -> dict[str, Any]:
            return {**self.system.view(sample, rng), "of": sample["id"]}

        def score(images: Batch) -> Tensor:
            own = texts.get(images.pop("of")[0], ())
            row = torch.full((1, most), torch.nan, device=self.device)
            if own:
                row[:, : len(own)] = rate(images, self._asked(own))
            return row

        against = digest_of(sorted((name, list(own)) for name, own in texts.items()))
        return self._embed(source, f"own:{capability}", score, against, batch=1, view=view)

    def _asked(self, texts: Sequence[str]) -> Batch:
        """The texts' evaluation views."""
        reader = Reader(Texts(texts), self.system.view)
        return to(collate([reader.item(n)[1] for n in range(len(texts))]), self.device)

    def answers(self, source: Source, keys: tuple[str, ...], most: int) -> list[tuple[Item, str]]:
        """What a system says, in at most ``most`` tokens, of samples of which it is given ``keys`` alone.

        Texts are kept as embeddings are, as their UTF-8 bytes; what is longer than ``LONGEST`` is cut.
        """

        def say(batch: Batch) -> Tensor:
            texts = [text.encode()[:LONGEST] for text in self.system.answer(batch, most)]
            rows = np.zeros((len(texts), LONGEST), np.uint8)
            for row, text in zip(rows, texts, strict=True):
                row[: len(text)] = np.frombuffer(text, np.uint8)
            return torch.from_numpy(rows)

        found = self._embed(source, f"answers:{'+'.join(keys)}", say, against=str(most), keys=keys)
        texts = [bytes(row[row > 0].astype(np.uint8)).decode(errors="ignore") for row in found.values]
        return list(zip(found.items, texts, strict=True))

    def grounded(self, source: Source, most: int) -> Embeddings:
        """The ``most`` best boxes of each phrase of each sample's grounded text, [n, phrases, most, 5]."""

        def find(batch: Batch) -> Tensor:
            return self.system.ground(batch, most).flatten(1)

        found = self._embed(source, "grounded", find, against=str(most), keys=("image", "grounded"))
        return replace(found, values=found.values.reshape(len(found.items), -1, most, 5))

    def detected(self, source: Source, most: int) -> Embeddings:
        """The ``most`` likeliest objects of each image, [n, most, 6]."""

        def find(batch: Batch) -> Tensor:
            return self.system.detect(batch, most).flatten(1)

        found = self._embed(source, "detected", find, against=str(most))
        return replace(found, values=found.values.reshape(len(found.items), most, 6))

    def counted(
        self,
        source: Source,
        what: str,
        count: Callable[[Batch, Batch], Tensor],
        truth: Callable[[Sample], dict[str, Any]],
    ) -> Embeddings:
        """What ``count`` makes of the view of an image and of what is ``truth`` of its sample, which the view is not
        shown: for answers as large as the image. ``what`` tells it from others in the cache."""

        def view(sample: Sample, rng: None) -> dict[str, Any]:
            seen = self.system.view({key: sample[key] for key in ("id", "image")}, None)
            return {"seen": seen, "true": truth(sample)}

        def function(batch: Batch) -> Tensor:
            seen, true = (to(collate(batch[part]), self.device) for part in ("seen", "true"))
            return count(seen, true)

        return self._embed(source, what, function, view=view, keys=("image", *_TRUTHS))

    def tokenized(self, source: Source) -> Embeddings:
        """Of each image how much of its features its words give back, and how much those of the next one of its batch
        do (nan where there is no other), then the words, padded by -1: [n, 2 + most words]."""

        def name(batch: Batch) -> Tensor:
            words = self.system.tokenize(batch)
            own = self.system.similarity(batch, words).float()
            other = self.system.similarity(batch, words[1:] + words[:1]).float()
            padded = torch.full((len(words), WORDS), -1.0, device=own.device)
            for row, each in zip(padded, words, strict=True):
                row[: len(each)] = torch.tensor(each[:WORDS], dtype=torch.float32, device=own.device)
            if len(words) == 1:
                other = torch.full_like(other, torch.nan)
            return torch.cat([own[:, None], other[:, None], padded], 1)

        return self._embed(source, "tokenized", name, keys=("image",))

    def drawn(self, texts: Sequence[str], seed: int) -> np.ndarray:
        """Pictures of texts, uint8 [n, H, W, 3]. What is random in them follows from the seed and the texts that are
        drawn together."""
        return self._painted(Texts(texts), "drawn", self.system.draw, seed)

    def repainted(self, source: Source, seed: int) -> np.ndarray:
        """Pictures as the system's own tokenizer keeps them, uint8 [n, H, W, 3]; see ``drawn``."""
        return self._painted(source, "repainted", self.system.repaint, seed)

    def _painted(
        self, source: Source, what: str, paint: Callable[[Batch, torch.Generator], Tensor], seed: int
    ) -> np.ndarray:
        def function(batch: Batch) -> Tensor:
            drawn = int(digest_of([seed, to(batch, torch.device("cpu"))])[:15], 16)
            pictures = paint(batch, torch.Generator(self.device).manual_seed(drawn))
            sides = torch.tensor(pictures.shape[2:], device=self.device).expand(len(pictures), -1)
            return torch.cat([sides, pictures.permute(0, 2, 3, 1).flatten(1)], 1)

        values = self._embed(source, what, function, against=str(seed), batch=TILE).values
        height, width = map(int, values[0, :2])
        return values[:, 2:].astype(np.uint8).reshape(len(values), height, width, 3)

    def readable(self, source: Source) -> Iterator[tuple[int, Sample]]:
        """The readable samples with their places in the source."""
        for index in self.computing.indices(source):
            try:
                yield int(index), source[int(index)]
            except BadSample:
                continue  # named by what embeds it

    def samples(self, source: Source) -> Iterator[Sample]:
        """The readable samples, as the source gives them."""
        return (sample for _, sample in self.readable(source))

    def items(self, source: Source) -> tuple[Item, ...]:
        """Ids, labels and captions of the readable samples, without pixels."""
        return tuple(map(item, self.samples(source)))

    def forget(self) -> list[tuple[str, str]]:
        """Drops what is remembered; (key, reason) of the unreadable samples among it."""
        known, self._known = self._known, {}
        return sorted({entry for found in known.values() for entry in found.bad})

    def _embed(
        self,
        source: Source,
        what: str,
        function: Callable[[Batch], Tensor],
        against: str = "",
        batch: int | None = None,
        view: Callable[[Sample, None], dict[str, Any]] | None = None,
        keys: tuple[str, ...] = (),
    ) -> Embeddings:
        key = (what, source.fingerprint(), against)
        if key not in self._known:
            reader = Reader(source, view or self.system.view, keys)
            chunks = self.computing.chunks(reader, what, function, against, batch or self.batch)
            filled = [chunk.values for chunk in chunks if len(chunk.values)] or [np.zeros((0, 0), np.float32)]
            items = tuple(item for chunk in chunks for item in chunk.items)
            bad = tuple(entry for chunk in chunks for entry in chunk.bad)
            if isinstance(source, Texts) and bad:
                raise UserError(f"text {': '.join(bad[0])}")
            if len({item.id for item in items}) < len(items):
                raise UserError(f"{source.name}: several samples have the same id; records need one each")
            self._known[key] = Embeddings(np.concatenate(filled), items, bad)
        return self._known[key]
