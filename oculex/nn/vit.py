"""Vision transformer: pixels to patch tokens and a pooled vector, at any input size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.blocks import Block


class VisionTransformer(nn.Module):
    """CLIP's vision transformer (Radford et al. 2021, section 2.4): a norm before the first block, a class token,
    learned absolute positions; the pooled vector is the normalised class token.

    Positions are made for ``size`` pixels and interpolated for any other multiple of ``patch``.
    """

    projection_bias = False

    def __init__(
        self,
        size: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        activation: str = "gelu",
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"image size {size} is not a multiple of the patch size {patch}")
        self.patch, self.width, self.grid = patch, width, size // patch
        self.patch_dropout = patch_dropout
        scale = width**-0.5
        self.patches = nn.Linear(3 * patch * patch, width, bias=False)
        self.class_token = nn.Parameter(scale * torch.randn(width))
        self.positions = nn.Parameter(scale * torch.randn(self.grid**2 + 1, width))
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))
        self.norm_post = nn.LayerNorm(width)
        for (
            block
        ) in self.blocks:  # as torch initialises its own attention, which the authors' vision tower keeps
            nn.init.xavier_uniform_(block.attention.qkv.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(block.attention.qkv.bias)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(block.attention.out.bias)  # type: ignore[union-attr, arg-type]

    def tokens(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Class token and patch tokens after the last block, before the norm; the grid of the patches.

        In training ``patch_dropout`` of the patches are left out, different ones for each image (FLIP, Li et al.
        2023, section 3), and n is smaller than the grid.
        """
        b, _, height, width = image.shape
        p = self.patch
        if height % p or width % p:
            raise ValueError(f"image of {height} x {width} pixels does not divide into patches of {p}")
        grid = (height // p, width // p)
        cut = (
            image.reshape(b, 3, grid[0], p, grid[1], p)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(b, grid[0] * grid[1], -1)
        )
        positions = self._positions(grid).to(image.dtype)
        x = self.patches(cut) + positions[1:]
        if self.training and self.patch_dropout > 0:
            kept = max(1, round(x.shape[1] * (1 - self.patch_dropout)))
            chosen = torch.rand(b, x.shape[1], device=x.device).topk(kept, dim=1).indices
            x = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
        first = (self.class_token + positions[0]).to(x.dtype).expand(b, 1, -1)
        x = self.norm_pre(torch.cat([first, x], dim=1))
        for block in self.blocks:
            x = block(x)
        return x, grid

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.norm_post(self.tokens(image)[0][:, 0])

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == (self.grid, self.grid):
            return self.positions
        table = self.positions[1:].T.reshape(1, self.width, self.grid, self.grid)
        table = F.interpolate(table, grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([self.positions[:1], table.flatten(2)[0].T])
