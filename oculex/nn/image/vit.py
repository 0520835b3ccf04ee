"""Vision transformer: pixels to patch tokens and a pooled vector, at any input size."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.blocks import Block


class VisionTransformer(nn.Module):
    """A class token and patch tokens with learned absolute positions through pre-norm blocks; the pooled vector is the
    normalised class token.

    As built it is CLIP's (Radford et al. 2021, section 2.4): patches without a bias, a norm before the first block.
    ``norm_pre=False, patch_bias=True, eps=1e-6`` is the plain one (Dosovitskiy et al. 2021) of timm, MAE and DINO.
    Positions are made for ``size`` pixels and interpolated for any other multiple of ``patch``. ``drop_path`` grows
    linearly with depth up to its value.
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
        *,
        channels: int = 3,
        norm_pre: bool = True,
        patch_bias: bool = False,
        eps: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"image size {size} is not a multiple of the patch size {patch}")
        self.patch, self.width, self.grid = patch, width, size // patch
        self.patch_dropout = patch_dropout
        scale = width**-0.5
        self.patches = nn.Linear(channels * patch * patch, width, bias=patch_bias)
        self.class_token = nn.Parameter(scale * torch.randn(width))
        self.positions = nn.Parameter(scale * torch.randn(self.grid**2 + 1, width))
        self.norm_pre = nn.LayerNorm(width, eps) if norm_pre else nn.Identity()
        rates = [drop_path * i / max(1, layers - 1) for i in range(layers)]
        self.blocks = nn.ModuleList(Block(width, heads, activation, eps, rate) for rate in rates)
        self.norm_post = nn.LayerNorm(width, eps)
        for block in self.blocks:  # as torch initialises its own attention, which CLIP's authors keep here
            nn.init.xavier_uniform_(block.attention.qkv.weight)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(block.attention.qkv.bias)  # type: ignore[union-attr, arg-type]
            nn.init.zeros_(block.attention.out.bias)  # type: ignore[union-attr, arg-type]

    def embed(
        self, image: Float[Tensor, "b c h w"], keep: Int[Tensor, "b k"] | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Class token and patch tokens with their positions, before the first block; the grid of the patches.

        ``keep`` names the patches, in row-major order, that are looked at; the others take no part and cost nothing.
        """
        cut, grid = self.cut(image)
        positions = self.table(grid).to(image.dtype)
        if keep is not None:
            cut = cut.gather(1, keep[..., None].expand(-1, -1, cut.shape[2]))
            x = self.patches(cut) + positions[1:][keep]
        else:
            x = self.patches(cut) + positions[1:]
        # x.shape[0], because len(x) would fix the batch size of a traced model
        first = (self.class_token + positions[0]).to(x.dtype).expand(x.shape[0], 1, -1)
        return self.norm_pre(torch.cat([first, x], dim=1)), grid

    def cut(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n v"], tuple[int, int]]:
        """Pixels of each patch, channels first within a patch, [B, N, C * patch * patch]; the grid of the patches."""
        b, channels, height, width = image.shape
        p = self.patch
        if height % p or width % p:
            raise ValueError(f"image of {height} x {width} pixels does not divide into patches of {p}")
        grid = (height // p, width // p)
        pieces = image.reshape(b, channels, grid[0], p, grid[1], p).permute(0, 2, 4, 1, 3, 5)
        return pieces.reshape(b, grid[0] * grid[1], -1), grid

    def tokens(
        self, image: Float[Tensor, "b c h w"], keep: Int[Tensor, "b k"] | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Class token and patch tokens after the last block, before the norm; the grid of the patches.

        Without ``keep``, in training ``patch_dropout`` of the patches are left out, different ones for each image (FLIP,
        Li et al. 2023, section 3), and n is smaller than the grid.
        """
        x, grid = self.embed(image, self.kept(image) if keep is None else keep)
        for block in self.blocks:
            x = block(x)
        return x, grid

    def forward(
        self, image: Float[Tensor, "b c h w"], keep: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b d"]:
        x, _ = self.embed(image, self.kept(image) if keep is None else keep)
        *before, last = self.blocks
        for block in before:
            x = block(x)
        return self.norm_post(last(x, at=torch.zeros(x.shape[0], dtype=torch.long, device=x.device)))

    def kept(self, image: Float[Tensor, "b c h w"]) -> Int[Tensor, "b k"] | None:
        """The patches that patch dropout leaves, different ones for each image; None: all of them."""
        if not self.training or self.patch_dropout == 0:
            return None
        n = (image.shape[2] // self.patch) * (image.shape[3] // self.patch)
        kept = max(1, round(n * (1 - self.patch_dropout)))
        return torch.rand(len(image), n, device=image.device).topk(kept, dim=1).indices

    def table(self, grid: tuple[int, int]) -> Float[Tensor, "n d"]:
        """Positions of the class token and of a grid's patches, [1 + N, D]."""
        if grid == (self.grid, self.grid):
            return self.positions
        square = self.positions[1:].T.reshape(1, self.width, self.grid, self.grid)
        square = F.interpolate(square, grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([self.positions[:1], square.flatten(2)[0].T])
