"""BERT's layers, the later ones of which look at an image: the text side of ALBEF and of what is built on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.data.collate import Ragged
from oculex.nn.blocks import Attention, attend
from oculex.nn.language.decoder import CrossAttention


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    if dropout == 0:
        return attend(q, k, v, seen=seen)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)


class TextAttention(Attention):
    """Of a text's tokens to those of them that are ``seen``, with dropout of the attention."""

    dropout: float = 0.0

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b n d"], seen: Bool[Tensor, "b #h #n m"] | None
    ) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        return self.out(_attend(q, k, v, seen, dropout).transpose(1, 2).reshape(b, n, d))


class ImageAttention(CrossAttention):
    """Of one modality's tokens to the other's, mostly a text's to an image's, with dropout of the attention."""

    dropout: float = 0.0

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "b n d"],
        image: Float[Tensor, "b m e"],
        seen: Bool[Tensor, "b #h #n m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """``seen``: which of the other's tokens count, where some are padding."""
        b, n, d = x.shape
        q = self.q(x).view(b, n, self.heads, d // self.heads).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        return self.out(_attend(q, *self.memory(image), seen, dropout).transpose(1, 2).reshape(b, n, d))


class BertLayer(nn.Module):
    """Post-norm: norm(x + attention x), norm(x + attention to the image), norm(x + mlp x).

    ``memory`` is the width of the image's tokens, where it is another one.
    """

    def __init__(
        self, width: int, heads: int, fuses: bool, dropout: float, eps: float, memory: int | None = None
    ) -> None:
        super().__init__()
        self.attention, self.norm_1 = TextAttention(width, heads), nn.LayerNorm(width, eps)
        self.attention.dropout = dropout
        self.fuses = fuses
        if fuses:
            self.cross, self.norm_2 = ImageAttention(width, heads, memory), nn.LayerNorm(width, eps)
            self.cross.dropout = dropout
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm_3, self.dropout = nn.LayerNorm(width, eps), nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        seen: Bool[Tensor, "b 1 1 n"] | None,
        image: Float[Tensor, "b m e"] | None = None,
        image_seen: Bool[Tensor, "b #h #n m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """``image_seen``: which of the image's tokens count, where some are padding."""
        x = self.norm_1(x + self.dropout(self.attention(x, seen)))
        if self.fuses:
            x = self.norm_2(x + self.dropout(self.cross(x, image, image_seen)))
        return self.norm_3(x + self.dropout(self.down(F.gelu(self.up(x)))))


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT (Devlin et al. 2019) whose layers from ``fusion`` on attend to an image (ALBEF, section 3.1)."""

    vocabulary: int
    positions: int
    width: int
    layers: int
    heads: int
    fusion: int
    dropout: float = 0.1
    """Of embeddings, branches and attention."""
    eps: float = 1e-12
    memory: int | None = None
    """Width of the image's tokens, where it is another one."""


class FusionBert(nn.Module):
    """Reads a text alone with its first layers, with an image by all of them, and predicts words.

    The word head's output weights are the embeddings. Weights are drawn as BERT's: normal of deviation 0.02.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        c = self.config = config
        self.words, self.positions = nn.Embedding(c.vocabulary, c.width), nn.Embedding(c.positions, c.width)
        self.types = nn.Embedding(2, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width, c.eps), nn.Dropout(c.dropout)
        self.layers = nn.ModuleList(
            BertLayer(c.width, c.heads, depth >= c.fusion, c.dropout, c.eps, c.memory)
            for depth in range(c.layers)
        )
        self.transform, self.transform_norm = nn.Linear(c.width, c.width), nn.LayerNorm(c.width, c.eps)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, text: Ragged, image: Float[Tensor, "b m e"] | None = None) -> Float[Tensor, "b n d"]:
        """Every token's vector: without an image after the layers before ``fusion``, with its tokens after all of them.

        Raises ValueError beyond the positions.
        """
        length = text.values.shape[1]
        if length > self.config.positions:
            raise ValueError(f"a text of {length} tokens is longer than {self.config.positions} positions")
        seen = (torch.arange(length, device=text.values.device) < text.lengths[:, None])[:, None, None]
        x = self.words(text.values) + self.types.weight[0] + self.positions.weight[:length]
        x = self.dropout(self.norm(x))
        layers: Any = self.layers[: self.config.fusion] if image is None else self.layers
        for layer in layers:
            x = layer(x, seen, image)
        return x

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Over the vocabulary, of the word at each vector's place."""
        return F.linear(self.transform_norm(F.gelu(self.transform(x))), self.words.weight, self.bias)
