"""A causal text decoder that looks at an image: predicts a caption token by token, and rates texts that are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.data.collate import Ragged
from oculex.nn.blocks import ACTIVATIONS, Attention, attend

Past = tuple[Tensor, Tensor]
"""Keys and values [B, prefixes, heads, length, D / heads] of a block."""


class CrossAttention(nn.Module):
    """Multi-head attention of a text's vectors to the memory's; ``kv`` holds both projections, [2 D, M].

    M is D where no width of the memory is given.
    """

    def __init__(self, width: int, heads: int, memory: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(memory or width, 2 * width)
        self.out = nn.Linear(width, width)

    def memory(self, memory: Float[Tensor, "b m e"]) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, M, D / heads], computed once however many texts look at them."""
        b, m, _ = memory.shape
        k, v = self.kv(memory).view(b, m, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def forward(self, x: Float[Tensor, "b n d"], memory: tuple[Tensor, Tensor]) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        q = self.q(x).view(b, n, self.heads, d // self.heads).transpose(1, 2)
        return self.out(attend(q, *memory).transpose(1, 2).reshape(b, n, d))


class DecoderBlock(nn.Module):
    """Pre-norm: causal self-attention, attention to the memory, then an mlp four times as wide."""

    def __init__(self, width: int, heads: int, activation: str = "gelu") -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_2, self.cross = nn.LayerNorm(width), CrossAttention(width, heads)
        self.norm_3 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "b n d"], memory: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norm_1(x), causal=True)
        return self.after_attention(x, self.cross.memory(memory))

    def after_attention(
        self, x: Float[Tensor, "b n d"], memory: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "b n d"]:
        x = x + self.cross(self.norm_2(x), memory)
        return x + self.down(self.activation(self.up(self.norm_3(x))))

    def grow(
        self, x: Float[Tensor, "b n d"], past: Past | None, parents: Tensor, memory: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "b n d"], Past]:
        """One more token for each of n prefixes; ``parents`` [n] say which prefixes of ``past`` they extend."""
        b, n, d = x.shape
        heads = self.attention.heads
        q, k, v = self.attention.qkv(self.norm_1(x)).view(b, n, 3, heads, 1, d // heads).unbind(2)
        if past is not None:
            k, v = torch.cat([past[0][:, parents], k], 3), torch.cat([past[1][:, parents], v], 3)
        mixed = attend(*(part.flatten(0, 1) for part in (q, k, v))).reshape(b, n, d)
        return self.after_attention(x + self.attention.out(mixed), memory), (k, v)


@dataclass(frozen=True)
class Level:
    """Texts' distinct prefixes of one length, and the tokens that follow them."""

    tokens: Int[Tensor, "n"]
    """Last token of each prefix."""
    parents: Int[Tensor, "n"]
    """Index among the prefixes one token shorter."""
    texts: Int[Tensor, "k"]
    """Texts that go on after this length,"""
    nodes: Int[Tensor, "k"]
    """their prefixes,"""
    targets: Int[Tensor, "k"]
    """and their next tokens."""

    def parts(self) -> tuple[Tensor, ...]:
        return self.tokens, self.parents, self.texts, self.nodes, self.targets


class TextDecoder(nn.Module):
    """A causal transformer with cross-attention whose output weights are its embeddings (VirTex, Desai and Johnson 2021,
    section 3.1), with the blocks, positions and initial scales of CLIP's text tower.

    ``memory`` is the width of the image's tokens; they are normed and projected once.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        memory: int,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.context, self.layers = context, layers
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.memory_norm, self.memory_projection = nn.LayerNorm(memory), nn.Linear(memory, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, activation) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As CLIP's text tower: residual branches shrink with depth, of which a decoder has three a block."""
        width = self.embedding.embedding_dim
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        inner, residual = width**-0.5, width**-0.5 * (3 * self.layers) ** -0.5
        for block in self.blocks:
            for linear, std in (
                (block.attention.qkv, inner),  # type: ignore[union-attr]
                (block.attention.out, residual),  # type: ignore[union-attr]
                (block.cross.q, inner),  # type: ignore[union-attr]
                (block.cross.kv, inner),  # type: ignore[union-attr]
                (block.cross.out, residual),  # type: ignore[union-attr]
                (block.up, (2 * width) ** -0.5),
                (block.down, residual),
            ):
                nn.init.normal_(linear.weight, std=std)  # type: ignore[union-attr, arg-type]
                nn.init.zeros_(linear.bias)  # type: ignore[union-attr, arg-type]

    def forward(self, text: Ragged, memory: Float[Tensor, "b m e"]) -> Float[Tensor, "b l d"]:
        """Every token's vector after the last block and the norm; token i has seen tokens 0 to i and the image.

        Raises ValueError beyond the context.
        """
        length = text.values.shape[1]
        if length > self.context:
            raise ValueError(f"a text of {length} tokens is longer than the context of {self.context}")
        seen = self._memory(memory)
        x = self.embedding(text.values) + self.positions[:length]
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x)

    def logits(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Of the token that follows each vector's."""
        return F.linear(x, self.embedding.weight, self.bias)

    def log_likelihood(
        self, text: Ragged, memory: Float[Tensor, "i m e"], tile: int = 64
    ) -> Float[Tensor, "i t"]:
        """log p(text | image) of every text for every image: the sum over the tokens after the first.

        Texts are taken ``tile`` at a time in the order of their tokens, and what they begin with in common is
        decoded once: of the prompts "a photo of a red cube" and "a photo of a red cone" only the last word is two.
        """
        seen = self._memory(memory)
        memories = [block.cross.memory(seen) for block in self.blocks]  # type: ignore[union-attr, operator]
        rows = text.rows()
        order = sorted(range(len(rows)), key=lambda t: rows[t])
        parts = [
            self._along(prefix_levels([rows[t] for t in order[at : at + tile]]), memories, len(memory))
            for at in range(0, len(order), tile)
        ]
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts, 1)[:, back.to(memory.device)]

    def _along(self, levels: list[Level], memories: list[tuple[Tensor, Tensor]], images: int) -> Tensor:
        device = self.positions.device  # every text has two tokens, so the first level has them all
        total = torch.zeros(images, len(levels[0].texts), device=device)
        past: list[Past | None] = [None] * self.layers
        for depth, level in enumerate(levels):
            tokens, parents, texts, nodes, targets = (part.to(device) for part in level.parts())
            x = (self.embedding(tokens) + self.positions[depth]).expand(images, -1, -1)
            for n, block in enumerate(self.blocks):
                x, past[n] = block.grow(x, past[n], parents, memories[n])  # type: ignore[union-attr, operator]
            log_p = self.logits(self.norm(x)).float().log_softmax(-1)
            total[:, texts] += log_p[:, nodes, targets]
        return total

    def _memory(self, memory: Float[Tensor, "b m e"]) -> Float[Tensor, "b m d"]:
        return self.memory_projection(self.memory_norm(memory))


def prefix_levels(rows: list[list[int]]) -> list[Level]:
    """The tree of the texts' prefixes, by length from 1; no prefix that nothing follows."""
    levels = []
    at = [0] * len(rows)  # each text's prefix among those of the last level
    for depth in range(max(map(len, rows)) - 1):
        nodes: dict[tuple[int, int], int] = {}
        going = [t for t, row in enumerate(rows) if len(row) > depth + 1]
        for t in going:
            at[t] = nodes.setdefault((at[t], rows[t][depth]), len(nodes))
        columns = (
            [token for _, token in nodes],
            [parent for parent, _ in nodes],
            going,
            [at[t] for t in going],
            [rows[t][depth + 1] for t in going],
        )
        levels.append(Level(*(torch.tensor(column) for column in columns)))
    return levels
