"""TinyViT: Fast Pretraining Distillation for Small Vision Transformers.

Kan Wu, Jinnian Zhang, Houwen Peng, Mengchen Liu, Bin Xiao, Jianlong Fu, Lu Yuan. ECCV 2022.

A small student learns to classify as a large teacher does, for many epochs on a large set. The teacher's part is done
once, before (section 3.1): it sees every image under the augmentation of every epoch, and of its answer the K most
likely classes are written to disk beside the augmentation, encoded as one 64-bit key. Training replays the
augmentation from the key, reads the answer, and never runs the teacher: no memory for it and no time, and any number
of students use one store. The architecture is ``oculex.nn.image.backbones.tinyvit``; any image tower can be the student.

Symbols: T(A(x)) is the teacher's distribution for image x under augmentation A, of which I(T) holds the K largest
values; every other class gets (1 - their sum) / (C - K). The loss is the cross-entropy of the student's S(A(x)) against
it; labels play no part. Without a teacher the student learns from smoothed labels, as in
the paper's runs from scratch.

The store is an asset of the run and not a stage: it is a function of teacher, data, view and seed alone, so it is
made once, kept in the cache under the digest of these, and shared by runs, seeds and students; a stage is trained
weights and belongs to one run.

Departures. The augmentation's key is not drawn but computed from (seed, epoch, sample); the record keeps it all the
same, as the authors' do (they use 32 bits). Erased pixels are rounded to bytes. The evaluation view is the middle of
the whole image, not of 7/8 of it. In label training mixup and cutmix are drawn for each sample, not for each batch; with
a teacher the authors turn them off. The authors' teacher, a CLIP-ViT-L/14 that they tuned on ImageNet-21k, is a pickle of
their own; the presets name timm's BEiT-L with the same 21,841 classes, and any run or timm classifier can be named
instead. The authors map the 21,841 classes to the 1,000 before fine-tuning; here the classifier starts afresh. The
presets ``tiny`` and ``teacher`` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from oculex.contracts import (
    Arm,
    Assets,
    Batch,
    Claim,
    Data,
    Evaluation,
    Features,
    Init,
    Optimizer,
    Plugin,
    Recipe,
    Sample,
    Schedule,
    Stage,
    System,
    Tuning,
)
from oculex.data.augment import random_resized_crop
from oculex.data.mixing import draw_mix, mixed, soft_labels
from oculex.data.randaugment import erase, rand_augment
from oculex.data.views import image_view, label
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.memory.sparse_teacher import SparseTeacher
from oculex.objectives.classification import soft_cross_entropy
from oculex.objectives.distillation import sparse_distillation


@dataclass(frozen=True)
class TinyViTConfig(ImageEncoderConfig):
    image_tower: str = "tinyvit_5m"
    drop_path: float = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    fixed_norms: bool = False
    """Batch norms keep the statistics that they have, as in fine-tuning."""
    teacher: str = ""
    """Who is learnt from: NAME:PRESET (trained once and kept), the folder of a run, or timm:MODEL; empty: the labels."""
    stored: bool = True
    """The teacher's answers are read from disk; False: it runs beside the student on the same views."""
    kept: int = 100
    """K, how many of the most likely classes are kept of an answer."""
    epochs: int = 90
    """Epochs whose augmentations have answers; training that goes on longer passes through them again."""
    views: int = 0
    """Seed of the augmentations; students of one seed share a store."""
    crop: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a share of the image; it is also mirrored or not."""
    randaugment: float = 9.0
    """Magnitude, 0 to 10, of two random operations; 0: none."""
    erasing: float = 0.25
    """Probability that a rectangle is replaced by noise."""
    smoothing: float = 0.1
    """Share of a label's target that is spread over all classes."""
    mixup: float = 0.0
    """Of the beta distribution that two labelled images' shares are drawn from; 0: none."""
    cutmix: float = 0.0
    """Of the beta distribution that a box's area is drawn from; 0: none."""

    def unused(self) -> dict[str, str]:
        idle = ("smoothing", "mixup", "cutmix") if self.teacher else ("stored", "kept", "epochs", "views")
        why = "has no effect with a teacher" if self.teacher else "has no effect without a teacher"
        return super().unused() | dict.fromkeys(idle, why)


class FastDistillation(System, ImageEncoder):
    """A backbone and a linear classifier over the classes of the training data."""

    def __init__(self, config: TinyViTConfig, assets: Assets) -> None:
        super().__init__(config)
        self.classes = max(1, len(assets.classes()))
        self.head = nn.Linear(self.image.width, self.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self._teacher: SparseTeacher | None = None
        # after all fresh weights are drawn, so that they do not depend on what the cache holds
        if config.teacher and assets.sources():
            seen = (
                config.image_size,
                config.crop,
                config.randaugment,
                config.erasing,
                config.mean,
                config.std,
            )
            self._teacher = SparseTeacher(
                config.teacher,
                assets,
                self.augmented,
                repr(seen),
                stored=config.stored,
                kept=config.kept,
                epochs=config.epochs,
                seed=config.views,
            )

    @classmethod
    def build(cls, config: TinyViTConfig, assets: Assets) -> FastDistillation:
        return cls(config, assets)

    def train(self, mode: bool = True) -> FastDistillation:
        super().train(mode)
        if self.config.fixed_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def augmented(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """The view that ``rng`` draws: crop, mirror, RandAugment, erasing."""
        c = self.config
        image = random_resized_crop(sample["image"], c.image_size, rng, scale=c.crop, key=sample["id"])
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, :, ::-1])
        if c.randaugment:
            image = rand_augment(image, rng, c.randaugment)
        return {"image": erase(image, rng, c.erasing, c.mean, c.std)}

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The epoch's view that the teacher saw, with its answer; without a teacher one of its own, with the label."""
        c = self.config
        if rng is None:
            return image_view(sample, None, c.image_size, c.crop)
        if not c.teacher:
            mix = draw_mix(c.mixup, c.cutmix, c.image_size, rng)
            return self.augmented(sample, rng) | {"label": label(sample, self.classes), "mix": mix}
        return self.augmented(sample, rng) if self._teacher is None else self._teacher.view(sample)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        if not self.config.teacher:
            pixels, share = mixed(self._normalised(batch["image"]), batch["mix"])
            target = soft_labels(batch["label"], share, self.classes, self.config.smoothing)
            return {"logits": self.head(self.image(pixels)), "target": target}
        answers = {} if self._teacher is None else self._teacher.answers(batch)
        return {"logits": self.classify(batch), **answers}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        if not self.config.teacher:
            return {"classification": soft_cross_entropy(features["logits"], features["target"])}
        return {
            "distillation": sparse_distillation(
                features["logits"], features["teacher_classes"], features["teacher_probabilities"]
            )
        }

    def readout(self) -> nn.Linear:
        return self.head

    def classify(self, batch: Batch) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.represent_image(batch))


# ------------------------------------------------------------------------------------------------- presets

_ADAMW = Optimizer(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=5.0)
_TASKS = Evaluation(tasks=("classify", "knn"))


_SCENES = "world:most=1,part=1/4"
"""One object of one of 48 classes, a quarter of what there is."""


def _world(image_tower: str, samples: str, lr: float, teacher: str = "") -> Recipe:
    """64-pixel scenes of the embedded world, minutes on two CPU cores; colours are classes there, so none are changed.

    The teacher learns from plain labels: smoothed ones would teach it to answer as if no class were like another.
    """
    return Recipe(
        system="tinyvit",
        model=TinyViTConfig(
            image_tower=image_tower,
            image_size=64,
            teacher=teacher,
            epochs=2,
            kept=5,
            crop=(0.6, 1.0),
            randaugment=0.0,
            erasing=0.1,
            smoothing=0.1 if teacher else 0.0,
        ),
        budget=f"{samples}samples",
        batch=64,
        precision="32-true",
        optimizer=replace(_ADAMW, lr=lr),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05, floor=0.01)),),
        data=Data(sources=(f"{_SCENES},scenes=8000",)),
        evaluation=_TASKS,
    )


def _paper(
    model: TinyViTConfig,
    epochs: int,
    images: int,
    batch: int,
    optimizer: Optimizer,
    warmup: int,
    floor: float,
) -> Recipe:
    return Recipe(
        system="tinyvit",
        model=model,
        budget=f"{epochs * images}samples",
        batch=batch,
        precision="16-mixed",
        optimizer=optimizer,
        stages=(Stage(schedule=Schedule("cosine", warmup=warmup / epochs, floor=floor)),),
        data=Data(sources=(), workers=8),
        evaluation=_TASKS,
    )


def _pretrain(image_tower: str, drop_path: float) -> Recipe:
    """22k_distill: 90 epochs of ImageNet-21k (14,197,122 images of 21,841 classes), top 100 logits, no mixing."""
    model = TinyViTConfig(
        image_tower=image_tower, drop_path=drop_path, teacher="timm:beit_large_patch16_224.in22k_ft_in22k"
    )
    optimizer = replace(_ADAMW, lr=2.5e-4 * 4096 / 512, weight_decay=0.01)
    return _paper(model, 90, 14_197_122, 4096, optimizer, warmup=5, floor=0.02)


def _finetune(image_tower: str, drop_path: float) -> Recipe:
    """22kto1k: 30 epochs of ImageNet-1k from the pretrained run that ``init.run`` names."""
    model = TinyViTConfig(image_tower=image_tower, drop_path=drop_path, fixed_norms=True)
    optimizer = replace(_ADAMW, lr=2.5e-4 * 1024 / 512, weight_decay=1e-8, layer_decay=0.8)
    return _paper(model, 30, 1_281_167, 1024, optimizer, warmup=5, floor=0.04)


def _enlarge(size: int) -> Recipe:
    """224to384 and 384to512: 30 epochs at the next size, from the run before that ``init.run`` names."""
    model = TinyViTConfig(image_tower=f"tinyvit_21m_{size}", image_size=size, drop_path=0.1, fixed_norms=True)
    optimizer = replace(_ADAMW, lr=2e-5 * 1024 / 512, weight_decay=1e-8)
    recipe = _paper(model, 30, 1_281_167, 1024, optimizer, warmup=5, floor=0.01)
    return replace(recipe, init=Init(take=(("image.", "image."), ("head.", "head."))))


def _scratch(image_tower: str, drop_path: float) -> Recipe:
    """1k: 300 epochs of ImageNet-1k on labels alone, with mixup and cutmix."""
    model = TinyViTConfig(image_tower=image_tower, drop_path=drop_path, mixup=0.8, cutmix=1.0)
    optimizer = replace(_ADAMW, lr=5e-4 * 1024 / 512)
    return _paper(model, 300, 1_281_167, 1024, optimizer, warmup=20, floor=0.01)


# -------------------------------------------------------------------------------------------------- claims


_RATES = Tuning((2e-3, 4e-3, 8e-3), on=(f"{_SCENES},split=test,seed=1,scenes=1000",))
"""For arms that differ in what they learn from; by scenes that judge none of them."""
_TOP1 = "world/classify/top1"
_ONCE: Mapping[str, Any] = {"evaluation.tasks": ["classify"]}
_TAUGHT: Mapping[str, Any] = {**_ONCE, "model.epochs": 1}
"""Each of the 8,000 scenes is seen once, so one epoch's answers are all that is read."""


def _against(
    name: str, statement: str, paper: str, arms: tuple[Arm, Arm], at_least: float, **more: Any
) -> Claim:
    return Claim(
        name,
        statement,
        paper,
        arms,
        treatment=arms[0].name,
        control=arms[1].name,
        at_least=at_least,
        budget="8000samples",
        **more,
    )


CLAIMS = (
    _against(
        "distillation_against_labels",
        "A small student learns more from a teacher's answers than from the labels, at equal samples of its own.",
        "TinyViT-5M: 80.7 with distilled pretraining, 79.1 on labels alone, ImageNet-1k (authors' model zoo)",
        (
            Arm("teacher", _TOP1, set=_TAUGHT),
            Arm("labels", _TOP1, set={**_ONCE, "model.teacher": ""}),
        ),
        at_least=0.0,
        tuning=_RATES,
    ),
    _against(
        "stored_as_good_as_beside",
        "A student that reads stored answers loses at most two points of accuracy to one whose teacher runs beside it; "
        "`oculex bench stored-teacher` measures the time and memory that this saves.",
        "answers are stored to save the teacher's memory and computation (abstract)",
        (
            Arm("stored", _TOP1, set=_TAUGHT),
            Arm("beside", _TOP1, set={**_TAUGHT, "model.stored": False}),
        ),
        at_least=-0.02,
    ),
    _against(
        "few_classes_suffice",
        "A tenth of the classes of each answer, 5 of 48, teaches as well as all of them, within two points of accuracy.",
        "100 of 21,841 classes are stored, 481 GB for 90 epochs (authors' code)",
        (
            Arm("5 classes", _TOP1, set=_TAUGHT),
            Arm("all classes", _TOP1, set={**_TAUGHT, "model.kept": 48}),
        ),
        at_least=-0.02,
        tuning=_RATES,
        seeds=(0, 1, 2, 3, 4),
    ),
)

SYSTEM = Plugin(
    system=FastDistillation,
    config=TinyViTConfig,
    presets={
        "tiny": partial(_world, "tinyvit_nano", "16e3", 4e-3, "tinyvit:teacher"),
        "teacher": partial(_world, "tinyvit_mini", "24e3", 2e-3),
        "tinyvit_5m": partial(_pretrain, "tinyvit_5m", 0.0),
        "tinyvit_11m": partial(_pretrain, "tinyvit_11m", 0.0),
        "tinyvit_21m": partial(_pretrain, "tinyvit_21m", 0.1),
        "tinyvit_5m_finetune": partial(_finetune, "tinyvit_5m", 0.0),
        "tinyvit_11m_finetune": partial(_finetune, "tinyvit_11m", 0.0),
        "tinyvit_21m_finetune": partial(_finetune, "tinyvit_21m", 0.1),
        "tinyvit_21m_384": partial(_enlarge, 384),
        "tinyvit_21m_512": partial(_enlarge, 512),
        "tinyvit_5m_scratch": partial(_scratch, "tinyvit_5m", 0.0),
        "tinyvit_11m_scratch": partial(_scratch, "tinyvit_11m", 0.1),
        "tinyvit_21m_scratch": partial(_scratch, "tinyvit_21m", 0.2),
    },
    claims=CLAIMS,
)
