"""Two towers with a shared space: what contrastive systems are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import Batch
from oculex.data.collate import Ragged
from oculex.nn.text import TextTransformer
from oculex.nn.towers import image_tower


@dataclass(frozen=True)
class DualEncoderConfig:
    image_tower: str = "vit"
    """vit, resnet (CLIP's attention-pooled one), or any timm model."""
    image_size: int = 224
    patch: int = 32
    width: int = 768
    layers: tuple[int, ...] = (12,)
    """Blocks of the image tower, per stage."""
    heads: int = 12
    patch_dropout: float = 0.0
    embedding: int = 512
    """Width of the shared space."""
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context: int = 77
    vocabulary: int = 49_408
    tokenizer: str = "clip"
    """clip, or corpus:SIZE for byte pairs learnt from the training captions."""
    activation: str = "quick_gelu"
    temperature: float = 0.07
    """At the start."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Of the pixels in 0..1, per channel."""


class DualEncoder(nn.Module):
    """An image tower, a text tower, a linear projection of each into the shared space, and a learned scale.

    Its methods are the capabilities of a dual encoder: a system that inherits them encodes, scores and is probed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, c = config, config
        self.image = tower = image_tower(
            c.image_tower,
            size=c.image_size,
            patch=c.patch,
            width=c.width,
            layers=c.layers,
            heads=c.heads,
            activation=c.activation,
            patch_dropout=c.patch_dropout,
        )
        self.image_projection = nn.Linear(tower.width, c.embedding, bias=tower.projection_bias)
        self.text = TextTransformer(
            c.vocabulary, c.context, c.text_width, c.text_layers, c.text_heads, c.activation
        )
        self.text_projection = nn.Linear(c.text_width, c.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / c.temperature)))
        nn.init.normal_(self.image_projection.weight, std=tower.width**-0.5)
        nn.init.normal_(self.text_projection.weight, std=c.text_width**-0.5)
        self.register_buffer("mean", 255 * torch.tensor(c.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(c.std).view(3, 1, 1), persistent=False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """ "image" and "text" embeddings [B, D] of what the batch has."""
        encoded = {}
        if "image" in batch:
            encoded["image"] = self.encode_image(batch)
        if "tokens" in batch:
            encoded["text"] = self.encode_text(batch)
        return encoded

    def represent_image(self, batch: Batch) -> Float[Tensor, "b f"]:
        """Features before the projection, on which CLIP's paper fits its linear probes (section 3.2)."""
        return self.image(self._normalised(batch["image"]))

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

    def _normalised(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (image.float() - self.mean) / self.std
