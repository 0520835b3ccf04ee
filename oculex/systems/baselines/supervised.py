"""DeiT without its teacher: Training data-efficient image transformers & distillation through attention.

Hugo Touvron, Matthieu Cord, Matthijs Douze, Francisco Massa, Alexandre Sablayrolles, Herve Jegou. ICML 2021.

A plain vision transformer learns to classify labelled images, with strong regularisation instead of much data:
smoothed labels, mixup, cutmix and stochastic depth (table 9). From scratch it is the baseline of pretraining; with
``init.run`` it begins from another run's encoder, and is that run's fine-tuning evaluation (for MAE, He et al. 2022,
table 9; for GMML and SiT, the same recipe as DeiT's).

Departures. Mixing is drawn for each sample, not for each batch. RandAugment, random erasing and repeated
augmentation are left out. Pooling by the mean follows the last norm instead of preceding it. The preset ``tiny`` is
ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

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
    UserError,
)
from oculex.data.mixing import draw_mix, mixed, soft_labels
from oculex.data.multiview import crops
from oculex.data.views import image_view
from oculex.nn.plain_encoder import PlainEncoder, PlainEncoderConfig
from oculex.objectives.classification import soft_cross_entropy


@dataclass(frozen=True)
class SupervisedConfig(PlainEncoderConfig):
    drop_path: float = 0.1
    classes: int = 0
    """How many there are; 0: as many as the training data names."""
    smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    mixup: float = 0.8
    """Of the beta distribution that two images' shares are drawn from; 0: none."""
    cutmix: float = 1.0
    """Of the beta distribution that a box's area is drawn from; 0: none."""
    crop: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a share of the image; it is also mirrored or not."""


class Supervised(PlainEncoder, System):
    """An encoder and a linear classifier."""

    def __init__(self, config: SupervisedConfig, assets: Assets) -> None:
        super().__init__(config)
        self.classes = config.classes or max(1, len(assets.classes()))
        self.classifier = nn.Linear(self.image.width, self.classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    @classmethod
    def build(cls, config: SupervisedConfig, assets: Assets) -> Supervised:
        return cls(config, assets)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random crop, the label, and what is mixed; without ``rng`` the centre alone."""
        c = self.config
        if rng is None:
            return image_view(sample, None, c.image_size, c.crop)
        if not 0 <= sample.get("label", -1) < self.classes:
            raise UserError(
                f"{sample['id']}: label {sample.get('label')} is not one of {self.classes} classes; supervised training "
                "needs labelled images, such as a folder per class"
            )
        return {
            "image": crops(sample, rng, c.image_size, c.crop)[0],
            "label": sample["label"],
            "mix": draw_mix(c.mixup, c.cutmix, c.image_size, rng),
        }

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        pixels, share = mixed(self._normalised(batch["image"]), batch["mix"])
        return {
            "logits": self.classifier(self.pooled(pixels)),
            "target": soft_labels(batch["label"], share, self.classes, self.config.smoothing),
        }

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        return {"classification": soft_cross_entropy(features["logits"], features["target"])}

    def classify(self, batch: Batch) -> Tensor:
        """Logits [B, classes]."""
        return self.classifier(self.represent_image(batch))


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """64-pixel scenes of the embedded world, minutes on two CPU cores."""
    return Recipe(
        system="supervised",
        model=SupervisedConfig(
            image_size=64,
            patch=8,
            width=192,
            layers=(4,),
            heads=3,
            mixup=0.0,
            cutmix=0.0,
            crop=(0.6, 1.0),
            pool="mean",
        ),
        budget="120s",
        batch=128,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        evaluation=Evaluation(tasks=("classify", "knn")),
    )


def _deit(width: int, heads: int) -> Recipe:
    """Table 9: 300 epochs of ImageNet with batches of 1,024, 5 epochs of warm-up."""
    return Recipe(
        system="supervised",
        model=SupervisedConfig(width=width, heads=heads, classes=1000),
        budget="384e6samples",
        batch=1024,
        optimizer=Optimizer(lr=5e-4 * 1024 / 512, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
        stages=(Stage(schedule=Schedule("cosine", warmup=5 / 300, floor=0.01)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("classify", "knn")),
    )


def _finetune(
    width: int, layers: int, heads: int, patch: int, epochs: int, decay: float, lr: float
) -> Recipe:
    """MAE's table 9, for an encoder that ``init.run`` names: batches of 1,024, 5 epochs of warm-up."""
    return Recipe(
        system="supervised",
        model=SupervisedConfig(
            width=width, layers=(layers,), heads=heads, patch=patch, classes=1000, pool="mean", drop_path=0.1
        ),
        budget=f"{epochs * 1.281167:.0f}e6samples",
        batch=1024,
        optimizer=Optimizer(
            lr=lr * 1024 / 256, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, layer_decay=decay
        ),
        stages=(Stage(schedule=Schedule("cosine", warmup=5 / epochs)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("classify", "knn")),
    )


SYSTEM = Plugin(
    system=Supervised,
    config=SupervisedConfig,
    presets={
        "tiny": _tiny,
        "deit_ti_16": partial(_deit, 192, 3),
        "deit_s_16": partial(_deit, 384, 6),
        "deit_b_16": partial(_deit, 768, 12),
        "finetune_b_16": partial(_finetune, 768, 12, 12, 16, 100, 0.65, 5e-4),
        "finetune_l_16": partial(_finetune, 1024, 24, 16, 16, 50, 0.75, 1e-3),
    },
)
