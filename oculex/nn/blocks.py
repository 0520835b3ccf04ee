"""The transformer block that every tower is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
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
) -> Float[Tensor, "b h n e"]:
    """softmax(q k^T / sqrt(e)) v.

    torch's fused kernel saves memory on long sequences, but on a CPU its backward pass in bfloat16 takes 2.5 times as
    long as the three plain products for the 65 tokens of a small picture.
    """
    if q.device.type != "cpu" or k.shape[2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        n = scores.shape[-1]
        future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    with torch.autocast(q.device.type, enabled=False):  # the softmax stays in the products' type
        weights = scores.softmax(dim=-1)
    return weights @ v


class Attention(nn.Module):
    """Multi-head self-attention; ``qkv`` holds the three projections one after the other, [3 D, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], causal: bool = False) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(q, k, v, causal)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


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

    def forward(self, x: Float[Tensor, "b n d"], causal: bool = False) -> Float[Tensor, "b n d"]:
        x = x + self._dropped(self.attention(self.norm_1(x), causal))
        return x + self._dropped(self.down(self.activation(self.up(self.norm_2(x)))))

    def _dropped(self, branch: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < keep).to(branch.dtype) / keep
