"""The image encoder of the self-supervised and supervised systems: a plain vision transformer, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from oculex.contracts import Batch, UserError
from oculex.nn.blocks import Attention
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.image.vit import VisionTransformer
from oculex.nn.initial import INITIAL


@dataclass(frozen=True)
class PlainEncoderConfig(ImageEncoderConfig):
    image_tower: str = "plain"
    patch: int = 16
    width: int = 384
    heads: int = 6
    activation: str = "gelu"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    drop_path: float = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    pool: str = "class"
    """What stands for the image: class (its token), or mean (of the patches)."""
    initial: str = "truncated"
    """How fresh weights are drawn: an entry of ``oculex.nn.initial``."""


class PlainEncoder(ImageEncoder):
    """A tower of patch tokens with the capabilities to represent an image, its patches, and what it attends to.

    Weights are drawn as ``config.initial`` says, class token and positions with deviation 0.02.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.pool not in POOLS:
            raise UserError(f"pool={config.pool!r} is unknown; known: {', '.join(POOLS)}")
        if config.initial not in INITIAL:
            raise UserError(f"initial={config.initial!r} is unknown; known: {', '.join(INITIAL)}")
        if isinstance(self.image, VisionTransformer):
            self.image.apply(INITIAL[config.initial])
            for table in (self.image.class_token, self.image.positions):
                nn.init.trunc_normal_(table, std=0.02)
            blocks = list(self.image.blocks)
            for depth, block in enumerate(blocks):
                block.drop_path = config.drop_path * depth / max(1, len(blocks) - 1)  # type: ignore[assignment]

    def tokens(self, pixels: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Tokens after the last norm, those of the patches last, and the patches' grid."""
        tokens, grid = self.tower.tokens(pixels)
        plain = isinstance(
            self.tower, VisionTransformer
        )  # towers of other libraries have normed theirs already
        return (self.tower.norm_post(tokens) if plain else tokens), grid

    def represent_image(self, batch: Batch) -> Float[Tensor, "b f"]:
        """The class token, or the mean of the patches, after the last norm."""
        return self.pooled(self._normalised(batch["image"]))

    def pooled(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """What stands for each image, by ``config.pool``."""
        return POOLS[self.config.pool](self, pixels)

    def patch_features(self, batch: Batch) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Features of the patches after the last norm, in row-major order, and their grid."""
        tokens, grid = self.tokens(self._normalised(batch["image"]))
        return tokens[:, -grid[0] * grid[1] :], grid

    def patch_attention(self, batch: Batch) -> tuple[Float[Tensor, "b heads n"], tuple[int, int]]:
        """The last block's attention from the class token to each patch (DINO, Caron et al. 2021, figure 1)."""
        return class_attention(whole(self.tower), self._normalised(batch["image"]))


def whole(tower: nn.Module) -> VisionTransformer:
    """The tower, if it is our vision transformer, whose patches can be left out and looked at one by one."""
    if not isinstance(tower, VisionTransformer):
        raise UserError("this needs the patches of our own vision transformer; leave image_tower=plain")
    return tower


def class_attention(
    tower: VisionTransformer, pixels: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b heads n"], tuple[int, int]]:
    x, grid = tower.embed(pixels)
    for block in tower.blocks[:-1]:
        x = block(x)
    last: Any = tower.blocks[-1]
    attention: Attention = last.attention
    b, n, d = x.shape
    q, k, _ = (
        attention.qkv(last.norm_1(x)).view(b, n, 3, attention.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    )
    scores = (q[:, :, :1] @ k.transpose(-1, -2)).float() * (d // attention.heads) ** -0.5
    return scores.softmax(dim=-1)[:, :, 0, 1:], grid


def _mean(encoder: Any, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    tokens, grid = encoder.tokens(pixels)
    return tokens[:, -grid[0] * grid[1] :].mean(dim=1)


POOLS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "class": lambda encoder, pixels: encoder.tower(pixels),
    "mean": _mean,
}
