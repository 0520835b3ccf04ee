"""Light decoders that give pixels back to an encoder's tokens; used in pretraining alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.nn.blocks import Block
from oculex.nn.initial import INITIAL, xavier


def sincos_positions(width: int, grid: tuple[int, int]) -> Float[Tensor, "n d"]:
    """Fixed positions of a class token (zeros) and of a grid's patches, [1 + N, D], as in MoCo v3 and MAE.

    The first half of the width tells the column and the second the row, each as sines and then cosines of its index
    times 10000 ** (-i / (D / 4)).
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that 4 divides, got {width}")
    rates = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * rates for side in grid)
    halves = [torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (columns, rows)]
    patches = torch.cat(
        [
            halves[0][None].expand(grid[0], -1, -1).flatten(0, 1),
            halves[1][:, None].expand(-1, grid[1], -1).flatten(0, 1),
        ],
        dim=1,
    )
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), patches]).float()


class MaskedDecoder(nn.Module):
    """A small transformer over visible and masked tokens that predicts the values of the masked patches (MAE, He et
    al. 2022, section 3).

    ``width_in`` is the encoder's width, ``values`` how many numbers a patch has.
    """

    positions: Tensor

    def __init__(
        self,
        width_in: int,
        width: int,
        layers: int,
        heads: int,
        grid: tuple[int, int],
        values: int,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, activation, eps=1e-6) for _ in range(layers))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.predict = nn.Linear(width, values)
        self.apply(xavier)

    def forward(
        self, latent: Float[Tensor, "b n d"], keep: Int[Tensor, "b k"], hidden: Int[Tensor, "b m"]
    ) -> Float[Tensor, "b m v"]:
        """Predictions for the patches ``hidden`` from the encoder's class token and tokens of the patches ``keep``."""
        x = self.embed(latent)
        b, m = hidden.shape
        masks = self.mask_token.to(x.dtype).expand(b, m, -1)
        patches = self.positions[1:].to(x.dtype)
        # attention has no order of its own: positions are added and nothing is put back in its place
        x = torch.cat([x, masks], dim=1)
        where = torch.cat([patches[keep], patches[hidden]], dim=1)
        x = x + F.pad(where, (0, 0, 1, 0))
        for block in self.blocks:
            x = block(x)
        return self.predict(self.norm(x[:, -m:]))


class PatchDecoder(nn.Module):
    """Pixels of each patch from its own token: three layers and a transposed convolution (GMML, Atito et al. 2022).

    The convolution's kernel is as large as its stride, so it is a matrix product and one bias per channel.
    """

    def __init__(self, width: int, patch: int, channels: int = 3, initial: str = "truncated") -> None:
        super().__init__()
        self.mlp = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(width, width), nn.GELU())))
        self.mlp.apply(INITIAL[initial])
        bound = (channels * patch * patch) ** -0.5  # torch's for a transposed convolution
        self.weight = nn.Parameter(torch.empty(channels * patch * patch, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n v"]:
        """Values of each patch, channels first within a patch."""
        bias = self.bias.repeat_interleave(len(self.weight) // len(self.bias))
        return F.linear(self.mlp(tokens), self.weight, bias)
