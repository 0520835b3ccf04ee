"""MAE: Masked Autoencoders Are Scalable Vision Learners.

Kaiming He, Xinlei Chen, Saining Xie, Yanghao Li, Piotr Dollar, Ross Girshick. CVPR 2022.

Three quarters of an image's patches are hidden at random. A vision transformer encodes the rest alone; a small
decoder sees these tokens and a mask token in place of each hidden patch, all with their positions, and predicts the
pixels of the hidden patches, each patch normalised by its own mean and variance (section 3). The loss is the squared
error on hidden patches. The encoder alone is kept.

Departures. The decoder's last layer runs on the hidden patches alone, the only ones that the loss looks at. The
class token is not decayed. The preset ``tiny`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from oculex.contracts import (
    Assets,
    Batch,
    Data,
    Evaluation,
    Features,
    Optimizer,
    Plugin,
    Recipe,
    Sample,
    Schedule,
    Stage,
    System,
)
from oculex.data.multiview import crops
from oculex.data.views import image_view
from oculex.nn.image.decoders import MaskedDecoder, sincos_positions
from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig, whole
from oculex.nn.masking import random_mask
from oculex.nn.memory.teacher import fix
from oculex.objectives.reconstruction import normalised_patches, squared_error
from oculex.systems import tiny


@dataclass(frozen=True)
class MAEConfig(PlainEncoderConfig):
    width: int = 768
    heads: int = 12
    initial: str = "xavier"
    mask_ratio: float = 0.75
    """Share of the patches that is hidden."""
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    normalise_targets: bool = True
    """Whether each patch is predicted with its own mean and variance taken out."""
    crop: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop, as a share of the image; it is also mirrored or not."""


class MAE(PlainEncoder, System):
    """An encoder of visible patches and a decoder of hidden ones."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__(config)
        c, tower = config, whole(self.image)
        self.grid = (tower.grid, tower.grid)
        fix(tower, "positions")
        tower.positions.copy_(sincos_positions(c.width, self.grid))
        self.decoder = MaskedDecoder(
            c.width,
            c.decoder_width,
            c.decoder_layers,
            c.decoder_heads,
            self.grid,
            3 * c.patch**2,
            c.activation,
        )

    @classmethod
    def build(cls, config: MAEConfig, assets: Assets) -> MAE:
        return cls(config)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random crop, the patches that are seen and those that are hidden; without ``rng`` the centre alone."""
        c = self.config
        if rng is None:
            return image_view(sample, None, c.image_size, c.crop)
        hidden = random_mask(self.grid, c.mask_ratio, rng).ravel()
        return {
            "image": crops(sample, rng, c.image_size, c.crop)[0],
            "keep": np.flatnonzero(~hidden),
            "hidden": np.flatnonzero(hidden),
        }

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        tower = whole(self.image)
        x, _ = tower.tokens(self._normalised(batch["image"]), batch["keep"])
        return {"latent": tower.norm_post(x)}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error of each image's hidden patches."""
        hidden = batch["hidden"]
        predicted = self.decoder(features["latent"], batch["keep"], hidden)
        patches, _ = whole(self.image).cut(self._normalised(batch["image"]))
        target = patches.gather(1, hidden[..., None].expand(-1, -1, patches.shape[2]))
        if self.config.normalise_targets:
            target = normalised_patches(target)
        return {"reconstruction": squared_error(predicted, target).mean(dim=1)}


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """Scenes of one object, minutes on two CPU cores."""
    return Recipe(
        system="mae",
        model=MAEConfig(
            **{**tiny.PLAIN, "initial": "xavier"},
            pool="mean",
            decoder_width=64,
            decoder_layers=1,
            decoder_heads=2,
            crop=(0.5, 1.0),
        ),
        budget="120000samples",
        batch=32,
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(f"{tiny.FEW_CLASSES},scenes=4000",)),
        evaluation=Evaluation(tasks=("finetune", "knn")),
    )


def _paper(width: int, layers: int, heads: int, patch: int) -> Recipe:
    """Appendix A.1, table 8: 1,600 epochs of ImageNet with batches of 4,096 and 40 epochs of warm-up."""
    return Recipe(
        system="mae",
        model=MAEConfig(width=width, layers=(layers,), heads=heads, patch=patch),
        budget="2.05e9samples",
        batch=4096,
        optimizer=Optimizer(lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05),
        stages=(Stage(schedule=Schedule("cosine", warmup=40 / 1600)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("finetune", "knn", "probe")),
    )


SYSTEM = Plugin(
    system=MAE,
    config=MAEConfig,
    presets={
        "tiny": _tiny,
        "vit_b_16": partial(_paper, 768, 12, 12, 16),
        "vit_l_16": partial(_paper, 1024, 24, 16, 16),
        "vit_h_14": partial(_paper, 1280, 32, 16, 14),
    },
)
