"""Two towers with a shared space: what contrastive systems are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import Assets, Batch, Sample, System, Tokenizer
from oculex.data.collate import Ragged
from oculex.data.views import image_view, text_view
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.language.text import TextTransformer


@dataclass(frozen=True)
class DualEncoderConfig(ImageEncoderConfig):
    embedding: int = 512
    """Width of the shared space."""
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context: int = 77
    vocabulary: int = 49_408
    tokenizer: str = "clip"
    """clip, or corpus:SIZE for byte pairs learnt from the training captions."""
    temperature: float = 0.07
    """At the start."""


class DualEncoder(ImageEncoder):
    """An image tower, a text tower, a linear projection of each into the shared space, and a learned scale.

    Its methods are the capabilities of a dual encoder: a system that inherits them encodes, scores and is probed.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c, tower = config, self.image
        self.image_projection = nn.Linear(tower.width, c.embedding, bias=tower.projection_bias)
        self.text = TextTransformer(
            c.vocabulary, c.context, c.text_width, c.text_layers, c.text_heads, c.activation
        )
        self.text_projection = nn.Linear(c.text_width, c.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / c.temperature)))
        nn.init.normal_(self.image_projection.weight, std=tower.width**-0.5)
        nn.init.normal_(self.text_projection.weight, std=c.text_width**-0.5)

    def readout(self) -> nn.Linear:
        return self.image_projection

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """ "image" and "text" embeddings [B, D] of what the batch has."""
        encoded = {}
        if "image" in batch:
            encoded["image"] = self.encode_image(batch)
        if "tokens" in batch:
            encoded["text"] = self.encode_text(batch)
        return encoded

    def encode_image(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Unit norm."""
        return F.normalize(self.image_projection(self.represent_image(batch)).float(), dim=-1)

    def encode_text(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Unit norm."""
        tokens: Ragged = batch["tokens"]
        return F.normalize(self.text_projection(self.text(tokens)).float(), dim=-1)

    def score_texts(self, images: Batch, texts: Batch) -> Float[Tensor, "i t"]:
        """Scaled cosine similarities: CLIP's logits."""
        return self.log_scale.exp() * self.encode_image(images) @ self.encode_text(texts).T

    def limit_scale(self, most: float) -> None:
        """Clamps the scale, the inverse temperature, to at most ``most``."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(most))


@dataclass(frozen=True)
class PairEncoderConfig(DualEncoderConfig):
    crop: tuple[float, float] = (0.9, 1.0)
    """Area of the random square crop, as a share of the image."""
    scale_limit: float = 100.0
    """Largest inverse temperature."""


class PairEncoder(System, DualEncoder):
    """A dual encoder that learns from pairs of an image and a caption; a system adds what it makes of a batch of them."""

    def __init__(self, config: Any, assets: Assets) -> None:
        super().__init__(config)
        self._assets = assets

    @classmethod
    def build(cls, config: Any, assets: Assets) -> PairEncoder:
        return cls(config, assets)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random square crop and one of the captions; without ``rng`` the centre and the first."""
        c = self.config
        return image_view(sample, rng, c.image_size, c.crop) | text_view(
            sample, rng, self.tokenizer, c.context
        )

    def after_step(self, step: int, steps: int) -> None:
        self.limit_scale(self.config.scale_limit)
