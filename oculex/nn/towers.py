"""Image towers by name: our own, or any of timm's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from oculex.contracts import UserError
from oculex.nn.resnet import ModifiedResNet
from oculex.nn.vit import VisionTransformer


def image_tower(
    part: str,
    *,
    size: int,
    patch: int,
    width: int,
    layers: tuple[int, ...],
    heads: int,
    activation: str,
    patch_dropout: float,
) -> Any:
    """A tower with ``width``, ``projection_bias``, ``tokens(image)`` and ``forward(image) -> [b, width]``.

    ``part`` is "vit", "resnet", or the name of a timm model, whose own sizes then count.
    """
    if part in TOWERS:
        return TOWERS[part](size, patch, width, layers, heads, activation, patch_dropout)
    return TimmTower(part, size)


def _vit(
    size: int,
    patch: int,
    width: int,
    layers: tuple[int, ...],
    heads: int,
    activation: str,
    patch_dropout: float,
) -> nn.Module:
    return VisionTransformer(size, patch, width, sum(layers), heads, activation, patch_dropout)


def _resnet(
    size: int,
    patch: int,
    width: int,
    layers: tuple[int, ...],
    heads: int,
    activation: str,
    patch_dropout: float,
) -> nn.Module:
    return ModifiedResNet(size, width, layers, heads)


TOWERS: dict[str, Callable[..., nn.Module]] = {"vit": _vit, "resnet": _resnet}


class TimmTower(nn.Module):
    """A timm model without its classifier."""

    projection_bias = False

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise UserError(
                f"image_tower={name!r} is not one of {', '.join(TOWERS)}; timm's models need pip install 'oculex[timm]'"
            ) from error
        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:3])
            raise UserError(
                f"image_tower={name!r} is neither one of {', '.join(TOWERS)} nor a timm model; near: {near}"
            )
        known = timm.get_pretrained_cfg(
            name
        )  # transformers have a table of positions, convolutions take any size
        sized = {"img_size": size} if known is not None and known.fixed_input_size else {}
        self.model: Any = timm.create_model(name, num_classes=0, **sized)  # type: ignore[arg-type]
        self.width = self.model.num_features

    def tokens(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        features = self.model.forward_features(image)
        if features.ndim == 4:
            return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])
        grid = self.model.patch_embed.dynamic_feat_size(image.shape[-2:])
        return features, grid

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.model(image)
