"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Mathilde Caron, Hugo Touvron, Ishan Misra, Herve Jegou, Julien Mairal, Piotr Bojanowski, Armand Joulin. ICCV 2021.

A student sees two large and several small crops of an image, a teacher the two large ones. Both say with K
prototypes what they see, and the student is trained to say of each crop what the teacher says of another (equation
3). The teacher's weights are a moving average of the student's; its outputs are centred and sharpened, and together
these keep both from saying the same of everything (section 3.1). The teacher's encoder is kept.

Symbols: g are the outputs over K prototypes, tau the temperatures, c the centre, lambda the teacher's momentum.

Departures. Colours are changed in floating point on the whole batch, not rounded to 8 bits after each change. The
teacher's temperature rises with every step instead of every epoch. Gradients are clipped by their global norm, not
tensor by tensor. The class token is not decayed. Positions are interpolated for small crops with antialiasing. The
preset ``tiny`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
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
    UserError,
)
from oculex.data.multiview import Colours, normalised, views
from oculex.data.views import image_view
from oculex.nn.image.heads import PrototypeHead
from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig
from oculex.nn.memory.teacher import Centre, Teacher, rising, warmed
from oculex.objectives.self_distillation import centred_targets, self_distillation
from oculex.systems import tiny

LARGE = (Colours(blur=1.0), Colours(blur=0.1, solarise=0.2))
SMALL = Colours(blur=0.5)


@dataclass(frozen=True)
class DINOConfig(PlainEncoderConfig):
    drop_path: float = 0.1
    """Of the student alone."""
    prototypes: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256
    unit_prototypes: bool = True
    """Whether the prototypes keep the length 1."""
    large_crop: tuple[float, float] = (0.4, 1.0)
    """Area of the two large crops, as a share of the image."""
    small_crops: int = 8
    small_crop: tuple[float, float] = (0.05, 0.4)
    small_size: int = 96
    """Pixels a side."""
    large_colours: tuple[Colours, Colours] = LARGE
    """What is done to the colours of each large crop."""
    small_colours: Colours = SMALL
    momentum: float = 0.996
    """lambda at the start; it rises to 1."""
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_temperature_first: float = 0.04
    temperature_warmup: float = 0.0
    """Share of the training over which the teacher's temperature rises; a value from 1 on is a number of steps."""
    centre_momentum: float = 0.9
    still: float = 0.01
    """Share of the training in which the prototypes stand still: the paper's first epoch of a hundred."""


class DINO(PlainEncoder, System):
    """A student and the teacher that follows it."""

    def __init__(self, config: DINOConfig) -> None:
        super().__init__(config)
        c = config
        if c.small_size % c.patch:
            raise UserError(f"small_size={c.small_size} is not a multiple of patch={c.patch}")
        self.head = PrototypeHead(
            self.image.width, c.prototypes, c.hidden, c.bottleneck, unit=c.unit_prototypes, initial=c.initial
        )
        self.teacher = Teacher(image=self.image, head=self.head)
        self.centre = Centre(c.prototypes)
        self._temperature = c.teacher_temperature

    @classmethod
    def build(cls, config: DINOConfig, assets: Assets) -> DINO:
        return cls(config)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Two large and several small crops, and what is done to their colours; without ``rng`` the centre alone."""
        c = self.config
        if rng is None:
            return image_view(sample, None, c.image_size, c.large_crop)
        large, large_colours = views(sample, rng, c.image_size, c.large_crop, c.large_colours)
        view = {"large": large, "large_colours": large_colours}
        if c.small_crops:
            small, small_colours = views(
                sample, rng, c.small_size, c.small_crop, (c.small_colours,) * c.small_crops
            )
            view |= {"small": small, "small_colours": small_colours}
        return view

    def before_step(self, step: int, steps: int) -> None:
        c = self.config
        self._temperature = warmed(
            c.teacher_temperature_first, c.teacher_temperature, c.temperature_warmup, step, steps
        )
        self.centre.begin()

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """ "student" [b, 2 + small crops, K] and "teacher" [b, 2, K]."""
        rows, seen = batch["large"].shape[:2]
        crops = [
            normalised(batch[kind], batch[f"{kind}_colours"], self.mean, self.std)
            for kind in ("large", "small")
            if kind in batch
        ]
        pooled = [self.image(each).view(rows, -1, self.image.width) for each in crops]
        with torch.no_grad():
            taught = self.teacher(crops[0]).view(rows, seen, -1)
        return {"student": self.head(torch.cat(pooled, dim=1)), "teacher": taught}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Equation 3 for each image."""
        self.centre.collect(features["teacher"])
        targets = centred_targets(features["teacher"], self.centre.mean, self._temperature)
        return {
            "self_distillation": self_distillation(
                features["student"], targets, self.config.student_temperature
            )
        }

    def after_backward(self, step: int, steps: int) -> None:
        if step < self.config.still * steps:
            for parameter in (self.head.prototypes, self.head.length):
                if parameter is not None:
                    parameter.grad = None

    def after_step(self, step: int, steps: int) -> None:
        self.teacher.follow(rising(self.config.momentum, step, steps))
        self.centre.update(self.config.centre_momentum)

    @property
    def tower(self) -> Any:
        """The teacher's encoder, which is what is used afterwards (section 3.2)."""
        return self.teacher.image


# ------------------------------------------------------------------------------------------------- presets


_LIGHT = Colours(brightness=0.4, contrast=0.4, saturation=0.1, hue=0.02, grey=0.0, blur=0.0)
"""Changes of the light alone: what the world's classes are told by is their colour, and the paper's changes remove it."""


def _tiny() -> Recipe:
    """Scenes of one object, minutes on two CPU cores."""
    return Recipe(
        system="dino",
        model=DINOConfig(
            **tiny.PLAIN,
            drop_path=0.0,
            prototypes=256,
            hidden=256,
            bottleneck=64,
            large_crop=(0.5, 1.0),
            small_crops=2,
            small_size=16,
            small_crop=(0.25, 0.5),
            large_colours=(_LIGHT, _LIGHT),
            small_colours=_LIGHT,
            momentum=0.99,
            still=0.03,
        ),
        budget="30000samples",
        batch=32,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.04, clip_norm=3.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.1, floor=1e-2)),),
        data=Data(sources=(f"{tiny.FEW_CLASSES},scenes=4000",)),
        evaluation=Evaluation(tasks=("finetune", "knn")),
    )


def _paper(width: int, heads: int, patch: int, unit: bool, crops: int, epochs: int, lr: float) -> Recipe:
    """Section 3.2 and the arguments of the released runs: batches of 1,024, 10 epochs of warm-up, the teacher's
    temperature rising over 30."""
    peak = lr * 1024 / 256
    return Recipe(
        system="dino",
        model=DINOConfig(
            width=width,
            heads=heads,
            patch=patch,
            unit_prototypes=unit,
            large_crop=(0.25, 1.0),
            small_crop=(0.05, 0.25),
            small_crops=crops,
            teacher_temperature=0.07,
            temperature_warmup=30 / epochs,
            still=1 / epochs,
        ),
        budget=f"{epochs * 1.281167:.0f}e6samples",
        batch=1024,
        optimizer=Optimizer(lr=peak, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.04),
        stages=(Stage(schedule=Schedule("cosine", warmup=10 / epochs, floor=1e-5 / peak, weight_decay=0.4)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("finetune", "knn", "probe")),
    )


SYSTEM = Plugin(
    system=DINO,
    config=DINOConfig,
    presets={
        "tiny": _tiny,
        "vit_s_16": partial(_paper, 384, 6, 16, False, 10, 800, 5e-4),
        "vit_s_8": partial(_paper, 384, 6, 8, False, 10, 800, 5e-4),
        "vit_b_16": partial(_paper, 768, 12, 16, True, 10, 400, 7.5e-4),
        "vit_b_8": partial(_paper, 768, 12, 8, True, 10, 300, 5e-4),
    },
)
