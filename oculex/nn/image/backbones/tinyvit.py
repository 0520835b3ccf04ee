"""TinyViT's architecture (Wu et al., ECCV 2022, section 3.2 and table 1; code microsoft/Cream, TinyViT).

A stem of two strided 3 x 3 convolutions, one stage of MBConv blocks, three stages of window attention. A transformer
block is

    x = x + attention(norm x)    inside windows, with a learned bias per head and absolute offset
    x = convnorm(x)              3 x 3, one filter a channel: neighbouring windows meet
    x = x + mlp(norm x)

The map is padded with zeros to a multiple of the window before the norm, as the authors do, so padded positions take
part in attention. Maps may have any size: an odd side is halved upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.image.backbones.parts import (
    ConvNorm,
    Hierarchy,
    attend_biased,
    drop_path,
    drop_path_rates,
    offset_bias,
    resized_offsets,
    unwindows,
    windows,
)

HEAD = 32
"""Channels of an attention head, in every published size."""


@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...]
    """Of each stage."""
    windows: tuple[int, ...]
    """Side of the attention window of the second and further stages."""
    depths: tuple[int, ...] = (2, 2, 6, 2)


SIZES: dict[str, Size] = {
    "tinyvit_5m": Size((64, 128, 160, 320), (7, 14, 7)),
    "tinyvit_11m": Size((64, 128, 256, 448), (7, 14, 7)),
    "tinyvit_21m": Size((96, 192, 384, 576), (7, 14, 7)),
    "tinyvit_21m_384": Size((96, 192, 384, 576), (12, 24, 12)),
    "tinyvit_21m_512": Size((96, 192, 384, 576), (16, 32, 16)),
    # ours, for pictures of 64 pixels: windows cover the same shares of the maps as the published ones do at 224
    "tinyvit_mini": Size((32, 64, 96, 160), (4, 4, 2), (1, 1, 3, 1)),
    "tinyvit_nano": Size((16, 32, 64, 96), (4, 4, 2), (1, 1, 2, 1)),
}


class TinyViT(Hierarchy):
    """The backbone without a classifier. ``drop_path`` is the rate of the last block; it grows from 0 with depth."""

    def __init__(self, size: Size, channels: int = 3, drop_path: float = 0.0) -> None:
        super().__init__()
        self.size, self.channels, self.width = size, size.channels, size.channels[-1]
        first = size.channels[0]
        self.stem = nn.Sequential(
            ConvNorm(channels, first // 2, 3, stride=2), nn.GELU(), ConvNorm(first // 2, first, 3, stride=2)
        )
        rates = drop_path_rates(drop_path, size.depths)
        self.stages = nn.ModuleList([nn.Sequential(*(MBConv(first, rate) for rate in rates[0]))])
        for n, window in enumerate(size.windows, start=1):
            self.stages.append(WindowStage(size.channels[n - 1], size.channels[n], window, rates[n]))
        self.norm = nn.LayerNorm(self.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # attention reads it without a copy

    def by_depth(self) -> list[list[nn.Module]]:
        """Blocks in order, each with what stands beside it; for learning rates that fall with depth. What leads into a
        stage counts to the block before it, as in the authors' code."""
        groups: list[list[nn.Module]] = []
        for stage in self.stages:
            if isinstance(stage, WindowStage):
                groups[-1].append(stage.merging)
                groups += [[block] for block in stage.blocks]
            else:
                groups += [[block] for block in stage.children()]
        groups[0].append(self.stem)
        return groups


class MBConv(nn.Module):
    """Inverted bottleneck, four times as wide inside (MobileNetV2, Sandler et al. 2018), with GELU also after the sum."""

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.up = ConvNorm(width, 4 * width)
        self.depthwise = ConvNorm(4 * width, 4 * width, 3, groups=4 * width)
        self.down = ConvNorm(4 * width, width, gain=0.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = F.gelu(self.depthwise(F.gelu(self.up(x))))
        return F.gelu(x + drop_path(self.down(y), self.rate, self.training))


class Merging(nn.Module):
    """Half the side, other channels: 1 x 1, 3 x 3 one filter a channel with stride 2, 1 x 1."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.mix = ConvNorm(inside, outside)
        self.stride = ConvNorm(outside, outside, 3, stride=2, groups=outside)
        self.out = ConvNorm(outside, outside)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.out(F.gelu(self.stride(F.gelu(self.mix(x)))))


class WindowStage(nn.Module):
    """Merging, then transformer blocks."""

    def __init__(self, inside: int, width: int, window: int, rates: list[float]) -> None:
        super().__init__()
        self.merging = Merging(inside, width)
        self.blocks = nn.ModuleList(WindowBlock(width, window, rate) for rate in rates)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        x = self.merging(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


class WindowBlock(nn.Module):
    """Attention inside windows, a local convolution, an mlp four times as wide."""

    def __init__(self, width: int, window: int, rate: float) -> None:
        super().__init__()
        self.window, self.rate = window, rate
        self.norm_1, self.attention = nn.LayerNorm(width), WindowAttention(width, window)
        self.local = ConvNorm(width, width, 3, groups=width)
        self.norm_2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        cut = windows(x, self.window, self.window)
        mixed = self.attention(self.norm_1(cut))
        mixed = unwindows(mixed, self.window, self.window, (x.shape[1], x.shape[2]))
        x = x + drop_path(mixed, self.rate, self.training)
        x = self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + drop_path(self.down(F.gelu(self.up(self.norm_2(x)))), self.rate, self.training)


class WindowAttention(nn.Module):
    """Multi-head attention with a bias per head and offset; ``qkv`` holds each head's three projections together."""

    undecayed = ("biases",)
    """Parameters that weight decay spares."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = width // HEAD, window
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.biases = nn.Parameter(torch.zeros(self.heads, window * window))

    def forward(self, x: Float[Tensor, "n p c"]) -> Float[Tensor, "n p c"]:
        n, p, c = x.shape
        q, k, v = self.qkv(x).view(n, p, self.heads, 3 * HEAD).transpose(1, 2).split(HEAD, dim=3)
        mixed = attend_biased(q, k, v, offset_bias(self.biases, self.window))
        return self.out(mixed.transpose(1, 2).reshape(n, p, c))

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """The weight ``name`` of a model with another window, for this one."""
        return resized_offsets(value, self.window) if name == "biases" else value
