"""An image tower over raw pixels: how every system that looks at pictures begins."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from oculex.contracts import Batch
from oculex.nn.image.towers import FIELDS, image_tower, unused


@dataclass(frozen=True)
class ImageEncoderConfig:
    image_tower: str = "vit"
    """vit (CLIP's), plain (MAE's), resnet (CLIP's), a named backbone such as tinyvit_5m, or any timm model."""
    image_size: int = 224
    patch: int = 32
    width: int = 768
    layers: tuple[int, ...] = (12,)
    """Blocks of the image tower, per stage."""
    heads: int = 12
    patch_dropout: float = 0.0
    activation: str = "quick_gelu"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Of the pixels in 0..1, per channel."""

    def unused(self) -> dict[str, str]:
        """Fields that the others leave without effect, and why; setting one is a mistake."""
        own = tuple(field.name for field in fields(self) if field.name in FIELDS)
        return {
            name: f"has no effect on image_tower={self.image_tower}" for name in unused(self.image_tower, own)
        }


class ImageEncoder(nn.Module):
    """A tower behind the normalisation of its pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, c = config, config
        given = {name: getattr(c, name) for name in FIELDS if hasattr(c, name)}
        self.image = image_tower(c.image_tower, size=c.image_size, **given)
        self.register_buffer("mean", 255 * torch.tensor(c.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(c.std).view(3, 1, 1), persistent=False)

    @property
    def tower(self) -> Any:
        """The network that the capabilities ask."""
        return self.image

    def readout(self) -> nn.Linear | None:
        """The linear layer that makes the system's answer of ``represent_image``: a classifier, or the projection of an
        embedding. None: the features are what it gives."""
        return None

    def represent_image(self, batch: Batch) -> Float[Tensor, "b f"]:
        """The tower's pooled features, on which CLIP's paper fits its linear probes (section 3.2)."""
        return self.image(self._normalised(batch["image"]))

    def _normalised(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (image.float() - self.mean) / self.std
