"""The view of a system that finds what phrases mean: a picture in a square, a text, its boxes and which tokens are about
them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample, UserError
from oculex.data.boxes import checked, class_prompt, fitted, phrases_of_tokens, picture_size, solid

NAMES = 0.5
"""Share of the texts that are names of classes, of samples that have others too."""


@dataclass(frozen=True)
class GroundedView:
    tokenizer: Any
    """One that tells where its tokens are (``located``)."""
    size: int
    """Pixels of the square's side."""
    fill: tuple[float, float, float]
    context: int
    """Most tokens of a text."""
    regions: int
    """Most boxes of a sample that are kept, and most phrases that are asked for."""
    negatives: int
    """Most names of classes that are not in the picture."""
    flip: float
    """Share of the pictures that are mirrored."""

    def training(self, sample: Sample, rng: np.random.Generator, classes: Sequence[str]) -> dict[str, Any]:
        """One of the sample's grounded texts, or names of ``classes``: ``image`` uint8 [3, size, size], ``tokens``, and
        in random order ``boxes`` float32 [regions, 4] in pixels of the view, ``about`` bool [regions, context] which
        tokens are about each, none of those past the last box. Raises BadSample without boxes that a text means."""
        mirrored = bool(rng.random() < self.flip)
        image, extent = fitted(sample, self.size, self.fill, mirrored)
        text = self._text(sample, rng, classes)
        boxes = checked(sample.get("boxes", ()), sample["id"])
        boxes = boxes * np.tile(extent / np.array(picture_size(sample), np.float32), 2)
        if mirrored:
            boxes[:, [0, 2]] = extent[0] - boxes[:, [2, 0]]
        tokens, about = self._located(text)
        named = np.zeros((len(boxes), self.context), bool)
        for phrase, meant in zip(about, text["boxes"], strict=True):
            named[meant] |= phrase
        ignored = np.asarray(sample.get("box_ignored", np.zeros(len(boxes))), bool)
        kept = rng.permutation(np.flatnonzero(named.any(1) & solid(boxes) & ~ignored))[: self.regions]
        padding = ((0, self.regions - len(kept)), (0, 0))
        return {
            "image": image,
            "tokens": tokens,
            "boxes": np.pad(boxes[kept], padding),
            "about": np.pad(named[kept], padding),
        }

    def asked(self, sample: Sample) -> dict[str, Any]:
        """The picture and, where the sample has one, its first grounded text: ``about`` bool [regions, context] which
        tokens are about each phrase, ``extent`` float32 [2] the picture's width and height in pixels of the view."""
        image, extent = fitted(sample, self.size, self.fill)
        text = next(iter(sample.get("grounded") or ()), None)
        if text is None:
            return {"image": image}
        tokens, about = self._located(text)
        if len(about) > self.regions:
            raise UserError(
                f"{text['text'][:60]!r} asks for {len(about)} phrases, more than regions={self.regions}"
            )
        padded = np.pad(about, ((0, self.regions - len(about)), (0, 0)))
        return {"image": image, "tokens": tokens, "about": padded, "extent": extent}

    def reads(self, text: Mapping[str, Any]) -> bool:
        """Whether all phrases of a grounded text can be asked for at once."""
        return len(text["spans"]) <= self.regions and self._fits(text["text"])

    def _text(self, sample: Sample, rng: np.random.Generator, classes: Sequence[str]) -> Mapping[str, Any]:
        texts, labels = sample.get("grounded") or (), sample.get("box_labels")
        if labels is not None and (not texts or rng.random() < NAMES):
            return class_prompt(classes, list(map(int, labels)), rng, self.negatives, self._fits)
        if not texts:
            raise BadSample(
                sample["id"], "has neither boxes with classes nor a text whose phrases mean boxes"
            )
        return texts[int(rng.integers(len(texts)))]

    def _fits(self, text: str) -> bool:
        return len(self.tokenizer.encode(text, self.context + 1)) <= self.context

    def _located(self, text: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        """Tokens of a text, and which of them are about each phrase, [phrases, context]."""
        tokens, offsets = self.tokenizer.located(text["text"], self.context)
        return tokens, phrases_of_tokens(offsets, text["spans"], self.context)
