"""What convolutional and windowed backbones share: the pyramid, convolution with its norm, windows, biased attention."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class Hierarchy(nn.Module):
    """A stem and stages, each half as fine as the one before; the pooled vector is the norm of the last map's mean.

    Made for any input size: every part takes maps as they come.
    """

    projection_bias = False
    stem: nn.Module
    stages: nn.ModuleList
    norm: nn.Module
    width: int
    """Channels of the last map."""
    channels: tuple[int, ...]
    """Of each map of the pyramid."""
    strides: tuple[int, ...] = (4, 8, 16, 32)
    """Pixels of the image per position of each map, a side."""

    def pyramid(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """The map after each stage, finest first; sides are the image's over ``strides``, rounded up."""
        x, maps = self.stem(image.contiguous(memory_format=torch.channels_last)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def tokens(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """The last map's positions in row-major order, before the norm, and its grid."""
        last = self.pyramid(image)[-1]
        return last.flatten(2).transpose(1, 2), (last.shape[2], last.shape[3])

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.norm(self.tokens(image)[0].mean(dim=1))


class ConvNorm(nn.Module):
    """A convolution without a bias, and batch norm; same size for stride 1, half (rounded up) for stride 2."""

    def __init__(
        self, inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.norm(self.conv(x))


def drop_path(branch: Float[Tensor, "b *d"], rate: float, training: bool) -> Float[Tensor, "b *d"]:
    """Leaves out a sample's branch with probability ``rate`` in training and scales the kept ones up (stochastic
    depth, Huang et al. 2016)."""
    if not training or rate == 0.0:
        return branch
    shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    return branch * (torch.rand(shape, device=branch.device) < 1 - rate).to(branch.dtype) / (1 - rate)


def drop_path_rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates that grow linearly from 0 at the first block to ``last`` at the last one, by stage."""
    rates = iter(torch.linspace(0, last, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def windows(x: Float[Tensor, "b h w c"], height: int, width: int) -> Float[Tensor, "n p c"]:
    """The map cut into windows of ``height`` x ``width`` positions, padded with zeros below and at the right."""
    b, h, w, c = x.shape
    rows, columns = -(-h // height), -(-w // width)
    if (rows * height, columns * width) != (h, w):
        x = F.pad(x, (0, 0, 0, columns * width - w, 0, rows * height - h))
    x = x.reshape(b, rows, height, columns, width, c).transpose(2, 3)
    return x.reshape(b * rows * columns, height * width, c)


def unwindows(
    x: Float[Tensor, "n p c"], height: int, width: int, size: tuple[int, int]
) -> Float[Tensor, "b h w c"]:
    """The map of ``size`` positions that ``windows`` cut; what was padded is dropped."""
    rows, columns = -(-size[0] // height), -(-size[1] // width)
    x = x.reshape(-1, rows, columns, height, width, x.shape[-1]).transpose(2, 3)
    x = x.reshape(x.shape[0], rows * height, columns * width, x.shape[-1])
    return x[:, : size[0], : size[1]]


def attend_biased(
    q: Float[Tensor, "b h n e"],
    k: Float[Tensor, "b h n e"],
    v: Float[Tensor, "b h n e"],
    bias: Float[Tensor, "h n n"],
) -> Float[Tensor, "b h n e"]:
    """softmax(q k^T / sqrt(e) + bias) v.

    On a CPU by plain products: for the few positions of a window torch's fused kernel is slower there.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)
    with torch.autocast(q.device.type, enabled=False):  # the softmax stays in the products' type
        weights = scores.softmax(dim=-1)
    return weights @ v


def distances(side: int, device: torch.device) -> Int[Tensor, "s s"]:
    """|i - j| for i, j in 0..side - 1, as indices."""
    at = torch.arange(side, device=device)
    return (at[:, None] - at).abs()


def offset_bias(table: Float[Tensor, "h p"], side: int) -> Float[Tensor, "h n n"]:
    """Biases of all pairs of positions in a square window from a table of one per absolute offset.

    ``table[:, dy * side + dx]`` belongs to pairs dy rows and dx columns apart (LeViT, Graham et al. 2021,
    section 4.2); n = side * side positions in row-major order.
    """
    apart = distances(side, table.device)
    at = (apart[:, None, :, None] * side + apart[None, :, None, :]).reshape(-1)
    return table.index_select(1, at).view(len(table), side * side, side * side)


def resized_offsets(table: Float[Tensor, "h p"], side: int) -> Float[Tensor, "h q"]:
    """A table of ``offset_bias`` for a window of ``side``, by bicubic interpolation (as TinyViT's authors do between
    resolutions)."""
    own = math.isqrt(table.shape[1])
    if own == side:
        return table
    square = table.detach().view(1, -1, own, own)
    return F.interpolate(square, (side, side), mode="bicubic", align_corners=False).view(-1, side * side)
