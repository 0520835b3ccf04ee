"""CLIP's residual network: three-convolution stem, anti-aliased strides, attention pooling."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; a stride is an average pool before the last convolution, and before the shortcut's."""

    def __init__(self, inside: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.norm2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.norm3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inside != 4 * planes:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            conv = nn.Conv2d(inside, 4 * planes, 1, bias=False)
            self.shortcut = nn.Sequential(pool, conv, nn.BatchNorm2d(4 * planes))
        nn.init.zeros_(self.norm3.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e i j"]:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(self.pool(y)))
        return F.relu(y + self.shortcut(x))


class AttentionPool(nn.Module):
    """One query, the mean over positions, attends to the mean and all positions (CLIP, section 2.4)."""

    def __init__(self, grid: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(grid**2 + 1, width) / width**0.5)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d"]:
        b, d, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self._positions((height, width)).to(x.dtype)
        q, k, v = (
            layer(part).view(b, -1, self.heads, d // self.heads).transpose(1, 2)
            for layer, part in ((self.query, x[:, :1]), (self.key, x), (self.value, x))
        )
        return F.scaled_dot_product_attention(q, k, v).reshape(b, d)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        side = round((len(self.positions) - 1) ** 0.5)
        if grid == (side, side):
            return self.positions
        table = self.positions[1:].T.reshape(1, -1, side, side)
        table = F.interpolate(table, grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([self.positions[:1], table.flatten(2)[0].T])


class ModifiedResNet(nn.Module):
    """The ResNet of CLIP, section 2.4: ResNet-D's stem and shortcuts, blur pooling, attention pooling.

    ``width`` is that of the first stage; every further stage is twice as wide at half the side, so the published
    four stages pool 32 * width channels at 1/32 of the image's side. What the authors call the attention pool's output
    projection is the system's image projection here, so it carries a bias.
    """

    projection_bias = True

    def __init__(self, size: int, width: int, layers: tuple[int, ...], heads: int, channels: int = 3) -> None:
        super().__init__()
        reduction = 2 ** (len(layers) + 1)
        self.width = reduction * width
        self.strides = tuple(4 * 2**n for n in range(len(layers)))
        self.channels = tuple(4 * width * 2**n for n in range(len(layers)))
        half = width // 2
        self.conv1, self.norm1 = (
            nn.Conv2d(channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
        )
        self.conv2, self.norm2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.norm3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        inside, stages = width, []
        for index, depth in enumerate(layers):
            planes = width * 2**index
            stage = []
            for block in range(depth):
                stage.append(Bottleneck(inside, planes, stride=2 if index > 0 and block == 0 else 1))
                inside = 4 * planes
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.pool = AttentionPool(size // reduction, self.width, heads)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the layout convolutions are fast in

    def tokens(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """The last stage's map as tokens, and its grid."""
        features = self.pyramid(image)[-1]
        return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])

    def pyramid(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """The map after each stage, finest first."""
        image = image.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.norm1(self.conv1(image)))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.norm3(self.conv3(x))), 2)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.pool(self.pyramid(image)[-1])
