"""Causal text transformer over sequences that are as long as the longest of their batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.data.collate import Ragged
from oculex.nn.blocks import Block, Packing


class TextTransformer(nn.Module):
    """CLIP's text tower (section 2.4): causal, pooled at the end-of-text token, which is each sequence's last.

    Padding stands on the right, where causal attention never looks, so no mask is needed and a longer padding
    changes nothing.
    """

    def __init__(
        self, vocabulary: int, context: int, width: int, layers: int, heads: int, activation: str = "gelu"
    ) -> None:
        super().__init__()
        self.width, self.context = width, context
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The authors' scales: residual branches shrink with depth."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        inner, residual = self.width**-0.5, self.width**-0.5 * (2 * len(self.blocks)) ** -0.5
        for block in self.blocks:
            nn.init.normal_(block.attention.qkv.weight, std=inner)  # type: ignore[union-attr, arg-type]
            nn.init.normal_(block.attention.out.weight, std=residual)  # type: ignore[union-attr, arg-type]
            nn.init.normal_(block.up.weight, std=(2 * self.width) ** -0.5)  # type: ignore[union-attr, arg-type]
            nn.init.normal_(block.down.weight, std=residual)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(block.attention.qkv.bias)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(block.attention.out.bias)  # type: ignore[union-attr, arg-type]

    def tokens(self, text: Ragged) -> Float[Tensor, "b l d"]:
        """Every token's vector after the last block and the norm. Raises ValueError beyond the context."""
        x, packing = self._embed(text)
        for block in self.blocks:
            x = block(x, causal=True, packing=packing)
        x = self.norm(x)
        return x if packing is None else packing.pad(x)

    def forward(self, text: Ragged) -> Float[Tensor, "b d"]:
        x, packing = self._embed(text)
        *before, last = self.blocks
        for block in before:
            x = block(x, causal=True, packing=packing)
        return self.norm(last(x, causal=True, packing=packing, at=text.lengths - 1))

    def _embed(self, text: Ragged) -> tuple[Tensor, Packing | None]:
        """Tokens and positions, packed, so that no padding is computed on. How many tokens there are is known only from
        the data: a graph that is compiled or exported keeps the padding, and with it its shapes."""
        length = text.values.shape[1]
        if length > self.context:
            raise ValueError(f"a text of {length} tokens is longer than the context of {self.context}")
        if torch.compiler.is_compiling():
            return self.embedding(text.values) + self.positions[:length], None
        packing = Packing.of(text.lengths, length)
        places = packing.slots % length
        return self.embedding(packing.pack(text.values)) + F.embedding(places, self.positions), packing
