"""Image towers by name: our own, or any of timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from oculex.contracts import UserError
from oculex.nn.image.backbones import NAMED
from oculex.nn.image.resnet import ModifiedResNet
from oculex.nn.image.vit import VisionTransformer


class Tower(Protocol):
    """What a system may ask of any image tower."""

    width: int
    """Of the pooled vector."""
    projection_bias: bool
    """Whether a projection into a shared space has a bias."""

    def tokens(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Features [B, N, D] of the last map, in row-major order after any class token, and its grid."""
        ...

    def __call__(self, image: Tensor) -> Tensor:
        """[B, width] of images [B, C, H, W]."""
        ...


class Backbone(Tower, Protocol):
    """A tower of several resolutions, as dense tasks need one; takes any input size."""

    strides: tuple[int, ...]
    """Pixels of the image per position of each map, a side; finest first."""
    channels: tuple[int, ...]
    """Of each map."""

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Maps [B, channels_i, H_i, W_i]; each side is the image's over ``strides``."""
        ...


FIELDS = ("patch", "width", "layers", "heads", "activation", "patch_dropout", "channels", "drop_path")
"""Fields of a configuration, beside its image_size, that a tower may be made from."""


@dataclass(frozen=True)
class Kind:
    """How a tower is built, and from which fields of a configuration."""

    build: Callable[..., nn.Module]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    """Fields that have an effect where they are given."""


def image_tower(part: str, **fields: Any) -> Any:
    """A ``Tower``: "vit" (CLIP's), "plain" (MAE's and DINO's), "resnet", a named backbone, or any timm model.

    ``fields``: size (pixels a side), and those of ``FIELDS``: layers counts blocks per stage, channels are the image's,
    drop_path is the last block's rate. A tower takes what it uses; ``unused`` names the rest.
    Raises UserError for an unknown name, and where the size of a tower is given by fields that are missing.
    """
    kind = _kind(part)
    missing = [name for name in kind.needs if name not in fields]
    if missing:
        raise UserError(
            f"image_tower={part!r} is sized by {', '.join(missing)}, which this system does not have; name a backbone "
            f"with a size of its own: {', '.join(NAMED)}, or a timm model"
        )
    return kind.build(**{name: fields[name] for name in kind.needs + kind.takes if name in fields})


def unused(part: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``fields`` that have no effect on the tower of that name."""
    kind = _kind(part)
    return tuple(name for name in fields if name not in kind.needs + kind.takes)


def _kind(part: str) -> Kind:
    return TOWERS.get(part) or Kind(partial(TimmTower, part), ("size",), ("channels", "drop_path"))


def _vit(layers: tuple[int, ...], **fields: Any) -> nn.Module:
    return VisionTransformer(layers=sum(layers), **fields)


_VIT = {
    "needs": ("size", "patch", "width", "layers", "heads"),
    "takes": ("activation", "patch_dropout", "channels", "drop_path"),
}


def _swin(
    size: int,
    patch: int,
    width: int,
    layers: tuple[int, ...],
    heads: int,
    channels: int = 3,
    drop_path: float = 0.0,
) -> nn.Module:
    """timm's Swin of other sizes: ``width`` and ``heads`` are the first stage's and double with each, and the last
    stage's map is one window."""
    return TimmTower(
        "swin_tiny_patch4_window7_224",
        size,
        channels,
        drop_path_rate=drop_path,
        patch_size=patch,
        embed_dim=width,
        depths=layers,
        num_heads=tuple(heads * 2**stage for stage in range(len(layers))),
        window_size=size // patch // 2 ** (len(layers) - 1),
    )


TOWERS: dict[str, Kind] = {
    "vit": Kind(_vit, **_VIT),
    "plain": Kind(partial(_vit, norm_pre=False, patch_bias=True, eps=1e-6), **_VIT),
    "resnet": Kind(ModifiedResNet, ("size", "width", "layers", "heads"), ("channels",)),
    "swin": Kind(_swin, ("size", "patch", "width", "layers", "heads"), ("channels", "drop_path")),
    **{name: Kind(build, (), ("channels", "drop_path")) for name, build in NAMED.items()},
}


def grid_of(tower: nn.Module, size: int, channels: int = 3) -> tuple[int, int]:
    """Rows and columns of a ``Tower``'s tokens for square images of ``size`` pixels, from shapes alone."""
    asked = _Tokens(tower)
    weights = {n: t.to("meta") for n, t in (*asked.named_parameters(), *asked.named_buffers())}
    return functional_call(asked, weights, (torch.empty(1, channels, size, size, device="meta"),))[1]


class _Tokens(nn.Module):
    """``tower.tokens`` as a module's own call, which is what ``functional_call`` calls."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower: Any = tower

    def forward(self, image: Tensor) -> Any:
        return self.tower.tokens(image)


def leave_out(tower: Any, blocks: int) -> None:
    """Takes so many last blocks off a transformer, and timm's norm after them: its tokens are those before these blocks.

    Raises UserError for a tower that has not as many, or none of its own.
    """
    if blocks == 0:
        return
    inner = tower.model if isinstance(tower, TimmTower) else tower
    found = getattr(inner, "blocks", None)
    if not isinstance(found, (nn.ModuleList, nn.Sequential)) or not 0 < blocks < len(found):
        has = f"{len(found)} blocks" if isinstance(found, (nn.ModuleList, nn.Sequential)) else "no blocks"
        raise UserError(
            f"{blocks} blocks cannot be left out of a tower that has {has}; set blocks_left_out=0"
        )
    inner.blocks = found[:-blocks]
    if isinstance(tower, TimmTower):
        inner.norm = nn.Identity()


class TimmTower(nn.Module):
    """A timm model without its classifier."""

    projection_bias = False

    def __init__(
        self, name: str, size: int, channels: int = 3, drop_path: float = 0.0, **settings: Any
    ) -> None:
        """``settings`` go to ``timm.create_model``."""
        super().__init__()
        self.name = name
        self.model = timm_model(name, size, num_classes=0, in_chans=channels, drop_path=drop_path, **settings)
        self.width: int = getattr(self.model, "head_hidden_size", self.model.num_features)
        reductions = [stage.get("reduction", 0) for stage in getattr(self.model, "feature_info", [])]
        stages = len(reductions) > 1 and all(a < b for a, b in pairwise(reductions))
        self.strides: tuple[int, ...] = tuple(reductions) if stages else ()
        self.channels: tuple[int, ...] = (
            tuple(stage["num_chs"] for stage in self.model.feature_info) if stages else ()
        )

    def tokens(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        features = self.model.forward_features(image)
        if features.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
                features = features.permute(0, 3, 1, 2)
            return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])
        grid = self.model.patch_embed.dynamic_feat_size(image.shape[-2:])
        return features, grid

    def pyramid(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """Maps of the model's stages; raises UserError for a model of one resolution."""
        if not self.strides:
            raise UserError(f"{self.name} has no stages of falling resolution; use a hierarchical model here")
        return self.model.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW")

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.model(image)


def timm_model(name: str, size: int | None = None, *, drop_path: float = 0.0, **settings: Any) -> Any:
    """A model of timm's, for images of ``size`` where one is given; ``settings`` go to ``timm.create_model``.

    Raises UserError where there is none of that name, or no timm.
    """
    ours = ", ".join(TOWERS)
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"image_tower={name!r} is not one of {ours}; timm's models need pip install 'oculex[timm]'"
        ) from error
    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:3])
        raise UserError(f"image_tower={name!r} is neither one of {ours} nor a timm model; near: {near}")
    known = timm.get_pretrained_cfg(
        name
    )  # transformers have a table of positions, convolutions take any size
    if size is not None and known is not None and known.fixed_input_size:
        settings["img_size"] = size
    if drop_path:
        settings["drop_path_rate"] = drop_path
    return timm.create_model(name, **settings)
