"""A public classifier of timm's as a teacher."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import Batch
from oculex.nn.image.towers import timm_model


class TimmClassifier(nn.Module):
    """Classifies uint8 images of any size: normalised and, where the model takes one size alone, resized for it."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, pretrained: bool = True) -> None:
        super().__init__()
        self.model = timm_model(name, pretrained=pretrained)
        expected = self.model.pretrained_cfg
        self.size = tuple(expected["input_size"][1:]) if expected.get("fixed_input_size") else None
        for part in ("mean", "std"):
            values = 255 * torch.tensor(expected[part]).view(3, 1, 1)
            self.register_buffer(part, values, persistent=False)

    def classify(self, batch: Batch) -> Float[Tensor, "b c"]:
        pixels = batch["image"].float()
        if self.size is not None and tuple(pixels.shape[2:]) != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True).clamp_(0, 255)
        return self.model((pixels - self.mean) / self.std)
