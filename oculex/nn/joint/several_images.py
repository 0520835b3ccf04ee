"""A language model that sees several pictures in one conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import BadSample, Batch, Sample
from oculex.data.chat import Turn
from oculex.data.views import squeezed_view
from oculex.nn.joint.multimodal import interleave
from oculex.nn.joint.visual_language import VisualLanguageConfig, VisualLanguageModel


@dataclass(frozen=True)
class SeveralImagesConfig(VisualLanguageConfig):
    images: int = 1
    """Most pictures of a conversation; those of a sample stand one after the other before what is asked."""

    def unused(self) -> dict[str, str]:
        return super().unused() | {
            "crop": "has no effect: pictures are seen whole, so that places in them stay true"
        }


class SeveralImagesModel(VisualLanguageModel):
    """Reads the ``images`` of a sample, or its ``image``, each as the visual tokens of one picture."""

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """As of one picture, with all of the sample's: ``image`` [images, 3, S, S], black from the ``shown``-th on. Each
        is squeezed into its square whole, so that places told as shares of its width and height stay where they are.

        Raises BadSample where a sample has more than ``images``.
        """
        c = self.config
        shown = list(sample.get("images") or ([sample["image"]] if "image" in sample else []))
        if not shown and rng is None:
            return super().view(sample, rng)
        if len(shown) > c.images:
            raise BadSample(sample["id"], f"has {len(shown)} pictures; images={c.images} are read at most")
        pixels = np.zeros((c.images, 3, c.image_size, c.image_size), np.uint8)
        for n, picture in enumerate(shown):
            pixels[n] = squeezed_view({"id": sample["id"], "image": picture}, rng, c.image_size)["image"]
        view = {"image": pixels, "shown": len(shown)}
        counts, around = [self.visual] * len(shown), self._around() * len(shown)
        if rng is None:
            asked = sample.get("question") or c.instructions[0]
            encoded = self.chat.prompt([Turn("user", (*around, asked))], counts, sample["id"])
            return view | {"tokens": encoded.tokens, "visual": encoded.visual}
        turns = self.conversation(sample, rng, around)
        encoded = self.chat.encode(turns, counts, sample["id"]).cut(c.context, sample["id"])
        return view | {"tokens": encoded.tokens, "visual": encoded.visual, "trained": encoded.trained}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """{"visual": [B, images, T, D]}: visual tokens of the pictures that are shown, zeros of the others."""
        pixels = batch["image"]
        shown = torch.arange(pixels.shape[1], device=pixels.device) < batch["shown"][:, None]
        features, grid = self.image.tokens(self._normalised(pixels[shown]))
        tokens = self.connector(features, grid)
        visual = tokens.new_zeros(*shown.shape, *tokens.shape[1:])
        return {"visual": visual.masked_scatter(shown[..., None, None], tokens)}

    def embedded(self, batch: Batch, visual: Tensor | None) -> Tensor:
        words = self.language.get_input_embeddings()(batch["tokens"].values)
        if visual is None:
            return words
        shown = torch.arange(visual.shape[1], device=visual.device) < batch["shown"][:, None]
        return interleave(words, batch["visual"].values.bool(), visual[shown])
