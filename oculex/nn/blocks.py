"""The transformer block that every tower is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): the approximation of GELU that CLIP's published weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


SHORT = 512
"""Sequences up to this length are attended to by plain matrix products on a CPU."""


def attend(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h m e"],
    v: Float[Tensor, "b h m e"],
    causal: bool = False,
    seen: Bool[Tensor, "b #h #n m"] | None = None,
) -> Float[Tensor, "b h n e"]:
    """softmax(q k^T / sqrt(e)) v, over the keys that are ``seen``; ``causal`` hides the later ones (n = m).

    torch's fused kernel saves memory on long sequences, but on a CPU its backward pass in bfloat16 takes several times
    as long as the plain products for the 65 tokens of a small picture (docs/benchmarks.md).
    """
    if q.device.type != "cpu" or k.shape[2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        n = scores.shape[-1]
        seen = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    with torch.autocast(q.device.type, enabled=False):  # the softmax stays in the products' type
        weights = scores.softmax(dim=-1)
    return weights @ v


@dataclass(frozen=True)
class Packing:
    """Sequences of different lengths kept one after another, [T, D] with T = sum of lengths, instead of padded to the
    longest, [B, L, D]: whatever is done token by token is not done to padding."""

    slots: Int[Tensor, "t"]
    """Place of each token in the padded array, flattened to [B * L]."""
    first: Int[Tensor, "b"]
    """Place of each sequence's first token in the packed array."""
    length: int
    """L."""

    @cached_property
    def lengths(self) -> list[int]:
        """Of each sequence; waits for the device, once."""
        ends = [*self.first[1:].tolist(), len(self.slots)]
        return [end - start for start, end in zip(self.first.tolist(), ends, strict=True)]

    @classmethod
    def of(cls, lengths: Int[Tensor, "b"], length: int) -> Packing:
        real = torch.arange(length, device=lengths.device) < lengths[:, None]
        return cls(real.flatten().nonzero()[:, 0], lengths.cumsum(0) - lengths, length)

    def pack(self, x: Shaped[Tensor, "b l *d"]) -> Shaped[Tensor, "t *d"]:
        return x.flatten(0, 1).index_select(0, self.slots)

    def pad(self, x: Shaped[Tensor, "t d"]) -> Shaped[Tensor, "b l d"]:
        """Padding is 0."""
        padded = x.new_zeros(self.first.shape[0] * self.length, x.shape[1])
        return padded.index_copy(0, self.slots, x).view(-1, self.length, x.shape[1])


def take(
    x: Float[Tensor, "*i d"], at: Int[Tensor, "b"], packing: Packing | None = None
) -> Float[Tensor, "b d"]:
    """The vector at one position of each sequence."""
    if packing is not None:
        return x.index_select(0, packing.first + at)
    return x.gather(1, at[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


class Attention(nn.Module):
    """Multi-head self-attention; ``qkv`` holds the three projections one after the other, [3 D, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "*i d"],
        causal: bool = False,
        packing: Packing | None = None,
        at: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "*o d"]:
        """[B, N, D] to [B, N, D], or packed [T, D] to [T, D]; or to [B, D], ``at`` one position of each sequence. Packed
        sequences must be causal: nothing else keeps a token from looking at the padding that the heads see."""
        qkv = self.qkv(x)
        if packing is not None:
            qkv = packing.pad(qkv)
        b, n, d = qkv.shape[0], qkv.shape[1], x.shape[-1]
        q, k, v = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if at is None:
            mixed = attend(q, k, v, causal).transpose(1, 2).reshape(b, n, d)
            return self.out(mixed if packing is None else packing.pack(mixed))
        q = q.gather(2, at[:, None, None, None].expand(-1, self.heads, 1, d // self.heads))
        seen = torch.arange(n, device=x.device) <= at[:, None, None, None] if causal else None
        return self.out(attend(q, k, v, seen=seen).reshape(b, d))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + mlp(norm x), the mlp four times as wide.

    ``drop_path`` leaves out each of the two branches for a sample with that probability in training (stochastic
    depth, Huang et al. 2016) and scales the kept ones up.
    """

    def __init__(
        self, width: int, heads: int, activation: str = "gelu", eps: float = 1e-5, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width, eps), Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width, eps)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation, self.drop_path = ACTIVATIONS[activation], drop_path

    def forward(
        self,
        x: Float[Tensor, "*i d"],
        causal: bool = False,
        packing: Packing | None = None,
        at: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "*o d"]:
        """[B, N, D] to [B, N, D], or packed [T, D] to [T, D]; or to [B, D], ``at`` one position of each sequence,
        which is cheaper where nobody looks at the others: in the last block of a tower that is pooled there."""
        branch = self.attention(self.norm_1(x), causal, packing, at)
        if at is not None:
            x, packing = take(x, at, packing), None
        x = x + self._dropped(branch, packing)
        return x + self._dropped(self.down(self.activation(self.up(self.norm_2(x)))), packing)

    def _dropped(self, branch: Tensor, packing: Packing | None) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1 - self.drop_path
        samples = branch.shape[0] if packing is None else packing.first.shape[0]
        kept = (torch.rand(samples, device=branch.device) < keep).to(branch.dtype) / keep
        if packing is not None:
            kept = kept[packing.slots // packing.length]
        return branch * kept.view(-1, *[1] * (branch.ndim - 1))
