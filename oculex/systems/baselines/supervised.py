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

from functools import partial

from oculex.contracts import Assets, Data, Evaluation, Optimizer, Plugin, Recipe, Schedule, Stage, System
from oculex.nn.image.classifier import Classifier, ClassifierConfig
from oculex.systems import tiny


class Supervised(Classifier, System):
    """An encoder and a linear classifier."""

    @classmethod
    def build(cls, config: ClassifierConfig, assets: Assets) -> Supervised:
        return cls(config, assets)


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """Scenes of one object, minutes on two CPU cores."""
    return Recipe(
        system="supervised",
        model=ClassifierConfig(
            **tiny.PLAIN, mixup=0.0, cutmix=0.0, drop_path=0.0, crop=(0.6, 1.0), pool="mean"
        ),
        budget="60000samples",
        batch=32,
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(f"{tiny.FEW_CLASSES},scenes=4000",)),
        evaluation=Evaluation(tasks=("classify", "knn")),
    )


def _deit(width: int, heads: int) -> Recipe:
    """Table 9: 300 epochs of ImageNet with batches of 1,024, 5 epochs of warm-up."""
    return Recipe(
        system="supervised",
        model=ClassifierConfig(width=width, heads=heads, classes=1000),
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
        model=ClassifierConfig(
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
    config=ClassifierConfig,
    presets={
        "tiny": _tiny,
        "deit_ti_16": partial(_deit, 192, 3),
        "deit_s_16": partial(_deit, 384, 6),
        "deit_b_16": partial(_deit, 768, 12),
        "finetune_b_16": partial(_finetune, 768, 12, 12, 16, 100, 0.65, 5e-4),
        "finetune_l_16": partial(_finetune, 1024, 24, 16, 16, 50, 0.75, 1e-3),
    },
)
