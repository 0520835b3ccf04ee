"""GMML is All you Need (Group Masked Model Learning).

Sara Atito, Muhammad Awais, Josef Kittler. ICIP 2023 (arXiv 2205.14986).

Groups of connected patches are corrupted: rectangles are laid over the image until half to three quarters of its
pixels are covered, and what lies below is replaced by noise, or, for half of the images and 30 % of the pixels, by
what another image of the batch shows there. A vision transformer sees the corrupted image whole; a light decoder
gives back the pixels of each patch from its own token (section III). The loss is the absolute error on what was
corrupted. There is no momentum encoder, no negative pair, and nothing that depends on large batches.

The tokens that are decoded are the mean of those after blocks 6, 8, 10 and 12, under the last norm.

Departures. The paper speaks of groups of tokens; the authors' code, followed here, aligns rectangles with pixels
unless ``align`` says otherwise. Another image is one of the micro-batch. Each image's noise is drawn per update on
the device. Gradients are clipped by their global norm, not tensor by tensor. The preset ``tiny`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import (
    Arm,
    Assets,
    Batch,
    Claim,
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
from oculex.nn.corruption import CONTENTS, corrupted
from oculex.nn.image.decoders import PatchDecoder
from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig, whole
from oculex.nn.masking import MASKS
from oculex.objectives.reconstruction import hidden_error
from oculex.systems import tiny

MILD = Colours(jitter=0.3, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.01, grey=0.0, blur=0.1)


@dataclass(frozen=True)
class GMMLConfig(PlainEncoderConfig):
    drop_path: float = 0.1
    pool: str = "mean"
    mask: str = "grouped"
    """grouped, random or block: an entry of ``oculex.nn.masking``."""
    align: int = 1
    """Side in pixels of the cells that are corrupted together."""
    corrupt: tuple[float, float] = (0.5, 0.75)
    """Share of the pixels that is corrupted is drawn from here."""
    content: str = "noise"
    """noise, zeros, mean or blur: an entry of ``oculex.nn.corruption``."""
    alien: float = 0.5
    """Probability that another image's content is used instead."""
    alien_share: float = 0.3
    """Share of the pixels that is replaced then."""
    decoded: tuple[int, ...] = (6, 8, 10, 12)
    """Blocks, counted from 1, whose mean output is decoded."""
    crops: int = 2
    """Views of an image per update."""
    crop: tuple[float, float] = (0.05, 1.0)
    """Area of a view, as a share of the image."""


class GMML(PlainEncoder, System):
    """An encoder of corrupted images and a decoder of each of its tokens."""

    def __init__(self, config: GMMLConfig) -> None:
        super().__init__(config)
        for name, known in (("mask", MASKS), ("content", CONTENTS)):
            if getattr(config, name) not in known:
                raise UserError(f"{name}={getattr(config, name)!r} is unknown; known: {', '.join(known)}")
        if not config.decoded or max(config.decoded) > sum(config.layers):
            raise UserError(f"decoded={config.decoded} must name some of the {sum(config.layers)} blocks")
        self.decoder = PatchDecoder(whole(self.image).width, config.patch, initial=config.initial)

    @classmethod
    def build(cls, config: GMMLConfig, assets: Assets) -> GMML:
        return cls(config)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Views with their colours, what is corrupted in them, and by which content; without ``rng`` the centre."""
        c = self.config
        if rng is None:
            return image_view(sample, None, c.image_size, c.crop)
        crops, colours = views(sample, rng, c.image_size, c.crop, (MILD,) * c.crops)
        alien = rng.random(c.crops) < c.alien
        shares = [c.alien_share if each else rng.uniform(*c.corrupt) for each in alien]
        size = (c.image_size, c.image_size)
        return {
            "crops": crops,
            "colours": colours,
            "hidden": np.stack([MASKS[c.mask](size, share, rng, c.align) for share in shares]),
            "alien": alien,
            "other": rng.integers(1 << 30, size=c.crops),
        }

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """ "predicted" and "clean" patches of each image's views, [b, views * N, V]."""
        clean = normalised(batch["crops"], batch["colours"], self.mean, self.std)
        rows, count = batch["alien"].shape
        other = batch["other"] % rows * count + torch.arange(count, device=clean.device)
        hidden, alien = batch["hidden"].flatten(0, 1), batch["alien"].flatten()
        pixels = corrupted(clean, hidden, self.config.content, alien, other.flatten())
        predicted = self.decoder(self._decoded(pixels))
        target, _ = whole(self.image).cut(clean)
        return {
            "predicted": predicted.reshape(rows, -1, predicted.shape[2]),
            "clean": target.reshape(rows, -1, target.shape[2]),
        }

    def _decoded(self, pixels: Tensor) -> Tensor:
        tower, total = whole(self.image), 0.0
        x, _ = tower.embed(pixels)
        for number, block in enumerate(tower.blocks, 1):
            x = block(x)
            if number in self.config.decoded:
                total = total + x
        return tower.norm_post(total / len(self.config.decoded))[:, 1:]

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The absolute error of all corrupted values, summed for each image."""
        mask = self._corrupted_values(batch["hidden"])
        return {"reconstruction": hidden_error(features["predicted"], features["clean"], mask)}

    def items(self, batch: Batch) -> dict[str, int]:
        return {"reconstruction": 3 * int(batch["hidden"].sum())}

    def _corrupted_values(self, hidden: Tensor) -> Tensor:
        """1 for each value of a patch that was corrupted, in the layout of the predictions."""
        rows, count, height, width = hidden.shape
        pixels = hidden.reshape(rows * count, 1, height, width).expand(-1, 3, -1, -1).float()
        values, _ = whole(self.image).cut(pixels)
        return values.reshape(rows, -1, values.shape[2])


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """Scenes of one object, minutes on two CPU cores."""
    return Recipe(
        system="gmml",
        model=GMMLConfig(
            **tiny.PLAIN, pool="mean", align=4, drop_path=0.0, decoded=(2, 3, 4), crops=1, crop=(0.5, 1.0)
        ),
        budget="60000samples",
        batch=16,
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, clip_norm=3.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(f"{tiny.FEW_CLASSES},scenes=4000",)),
        evaluation=Evaluation(tasks=("finetune", "knn")),
    )


def _paper(width: int, heads: int) -> Recipe:
    """The authors' arguments: 800 epochs, batches of 256 images of two views each, 10 epochs of warm-up."""
    return Recipe(
        system="gmml",
        model=GMMLConfig(width=width, heads=heads),
        budget="1025e6samples",
        batch=256,
        precision="16-mixed",
        optimizer=Optimizer(lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.04, clip_norm=3.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=10 / 800, floor=2e-3, weight_decay=0.4)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("finetune", "knn", "probe")),
    )


# -------------------------------------------------------------------------------------------------- claims

_IMAGES = f"{tiny.FEW_CLASSES},scenes=240"
"""Ten labelled pictures of each class: all that an arm sees, with labels or without."""
_JUDGED = {
    "evaluation.tasks": ["classify"],
    "evaluation.on": [f"{tiny.FEW_CLASSES},split=test,scenes=2000"],
    "batch": 16,
}


def _pretrained(name: str, mask: str) -> Arm:
    changes = {"budget": "40000samples", "batch": 16, "model.mask": mask, "evaluation.tasks": ["knn"]}
    return Arm(name, "world/knn/top1", set={"data.sources": [_IMAGES], **changes})


def _supervised(name: str, budget: str, starts_from: str = "") -> Arm:
    changes = {"data.sources": [_IMAGES], "budget": budget, **_JUDGED}
    return Arm(name, "world/classify/top1", system="supervised", set=changes, starts_from=starts_from)


_GROUPS = (_pretrained("groups", "grouped"), _supervised("groups, then tuned", "10000samples", "groups"))

CLAIMS = (
    Claim(
        "groups_against_single_patches",
        "Corrupting groups of connected patches teaches more than corrupting as many single patches at random.",
        "the method's premise, without a figure of its own (abstract, section III)",
        arms=(
            *_GROUPS,
            _pretrained("single patches", "random"),
            _supervised("single patches, then tuned", "10000samples", "single patches"),
        ),
        treatment="groups, then tuned",
        control="single patches, then tuned",
    ),
    Claim(
        "small_data_against_scratch",
        "On few images, pretraining on these images alone and tuning beats supervised training from scratch.",
        "outperforms supervised pretraining consistently with a large margin (abstract)",
        # the control sees as many samples as both stages of the other arm together
        arms=(*_GROUPS, _supervised("from scratch", "50000samples")),
        treatment="groups, then tuned",
        control="from scratch",
    ),
)

SYSTEM = Plugin(
    system=GMML,
    config=GMMLConfig,
    presets={
        "tiny": _tiny,
        "vit_s_16": partial(_paper, 384, 6),
        "vit_b_16": partial(_paper, 768, 12),
    },
    claims=CLAIMS,
)
