"""Battle of the Backbones: A Large-Scale Comparison of Pretrained Models across Computer Vision Tasks.

Micah Goldblum, Hossein Souri, Renkun Ni, Manli Shu, Viraj Prabhu, Gowthami Somepalli, Prithvijit Chattopadhyay, Mark
Ibrahim, Adrien Bardes, Judy Hoffman, Rama Chellappa, Andrew Gordon Wilson, Tom Goldstein. NeurIPS 2023.

Which pretrained backbone is best, and for what? Each is given the same heads and trained by the same protocol on each
task, frozen or whole, after a search of the learning rate that is equally long for all. A run is one backbone:
``init.run`` names it (the folder of a run, NAME:PRESET, timm:MODEL, ...), empty is the same network from fresh weights,
and the stage's ``trainable`` says whether the heads learn alone. It is asked for classes, for classes under shifts of
domain and corruptions, for like images, for the class of each pixel, and for boxes. ``oculex race battle_of_backbones
--backbones A B C`` runs the grid of backbones, ways and seeds, and ranks them by z-scores (``oculex.claims.battle``,
``oculex.evaluation.ranking``).

While the backbone is frozen the heads of several tasks do not touch one another, so one run trains them all, to the same
weights as a run for each would. Trained whole, a backbone gets a run for each task.

Departures. The paper detects and segments instances with Cascade Mask R-CNN; the heads here are light ones, ATSS's
detector and a sum of pyramid levels for semantic segmentation (``oculex.nn.dense.dense_heads``), equal for all. The
authors train linear probes with LARS and detectors by mmdetection's schedules; here one recipe holds for all heads. As
theirs do, the frozen classifier stands on features that a batch norm without weights scales (their linear_probe.py), and
here the tuned one does too. Pictures are shown whole in a square of the backbone's own size, not cropped. The presets
are ours: the paper's single runs differ by backbone and data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

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
    UserError,
)
from oculex.data.boxes import checked, fitted, picture_size, solid
from oculex.data.masks import OUTSIDE, fitted_mask
from oculex.data.views import label
from oculex.nn.dense.dense_heads import (
    DetectionHead,
    SegmentationHead,
    best_objects,
    level_grids,
    maps_of,
    square_anchors,
)
from oculex.nn.dense.detection import decoded
from oculex.nn.image.image_encoder import ImageEncoderConfig
from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig
from oculex.nn.image.vit import VisionTransformer
from oculex.objectives.grounding import assigned, box_loss, centred_loss, centredness, word_loss
from oculex.systems import tiny

HEADS = {"classification": "classify", "segmentation": "segment", "detection": "detect"}
"""What heads learn, and the capability that each gives."""


@dataclass(frozen=True)
class BattleConfig(PlainEncoderConfig):
    tasks: tuple[str, ...] = tuple(HEADS)
    """Which heads there are."""
    head_width: int = 256
    """Channels of the dense heads."""
    anchor: float = 8.0
    """Side of a position's anchor, in positions of its level."""
    regions: int = 100
    """Most boxes of a sample that are learned from."""
    flip: float = 0.5
    """Share of the pictures that are mirrored in training."""

    def unused(self) -> dict[str, str]:
        idle = {"anchor", "regions"} - ({"anchor", "regions"} if "detection" in self.tasks else set())
        dense = set(self.tasks) & {"segmentation", "detection"}
        idle |= set() if dense else {"head_width"}
        return super().unused() | {name: f"has no effect on tasks={','.join(self.tasks)}" for name in idle}


class BattleOfBackbones(PlainEncoder, System):
    """A backbone and the heads of some tasks. A capability whose head is missing is None, so nobody is asked for it."""

    gathers = ("answering", "centredness")
    squares: Tensor

    def __init__(self, config: BattleConfig, assets: Assets) -> None:
        super().__init__(config)
        c = config
        unknown = [task for task in c.tasks if task not in HEADS]
        if unknown or not c.tasks:
            raise UserError(f"tasks={','.join(c.tasks)!r}: there are heads for {', '.join(HEADS)}")
        self.classes = max(1, len(assets.classes()))
        if "segmentation" in c.tasks and self.classes >= OUTSIDE:
            raise UserError(f"masks tell {OUTSIDE - 1} classes apart, the data names {self.classes}")
        self.maps = maps_of(self.image)
        self.plain = not self.maps
        channels = [self.image.channels[n] for n in self.maps] or [self._map_width()]
        self.heads = nn.ModuleDict()
        if "classification" in c.tasks:
            scaled = nn.BatchNorm1d(self.image.width, eps=1e-6, affine=False)
            linear = nn.Linear(self.image.width, self.classes)
            nn.init.trunc_normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
            self.heads["classification"] = nn.Sequential(scaled, linear)
        if "segmentation" in c.tasks:
            self.heads["segmentation"] = SegmentationHead(channels, c.head_width, self.classes, self.plain)
        if "detection" in c.tasks:
            self.heads["detection"] = DetectionHead(channels, c.head_width, self.classes, self.plain)
            self.levels = square_anchors(self._grids(), c.image_size, c.anchor)
            self.register_buffer("squares", torch.cat(self.levels), persistent=False)
        for task, capability in HEADS.items():
            if task not in c.tasks:
                setattr(self, capability, None)

    @classmethod
    def build(cls, config: BattleConfig, assets: Assets) -> BattleOfBackbones:
        return cls(config, assets)

    def _shapes(self) -> list[Tensor]:
        """The backbone's maps of one picture without their values."""
        size = self.config.image_size
        asked = _Maps(self)
        weights = {n: t.to("meta") for n, t in (*asked.named_parameters(), *asked.named_buffers())}
        pixels = torch.empty(1, 3, size, size, device="meta")
        return torch.func.functional_call(asked, weights, (pixels,))

    def _grids(self) -> list[tuple[int, int]]:
        return level_grids(self._shapes(), self.plain)

    def _map_width(self) -> int:
        return int(self._shapes()[0].shape[1])

    # ------------------------------------------------------------------------------------------ training

    def train(self, mode: bool = True) -> BattleOfBackbones:
        """A backbone that learns nothing is in evaluation mode throughout: no dropout, no moving statistics."""
        super().train(mode)
        if self.frozen:
            self.image.eval()
        return self

    @property
    def frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.image.parameters())

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The whole picture in a square, mirrored or not; what its tasks are to find; without ``rng`` the picture and its
        extent alone."""
        c = self.config
        if "image" not in sample:
            return {}
        mirrored = rng is not None and rng.random() < c.flip
        image, extent = fitted(sample, c.image_size, c.mean, mirrored)
        view: dict[str, Any] = {"image": image, "extent": extent}
        if rng is None:
            return view
        if "classification" in c.tasks:
            view["label"] = label(sample, self.classes)
        if "segmentation" in c.tasks:
            view["semantic"] = fitted_mask(sample, c.image_size, mirrored)
        return view | (self._objects(sample, rng, extent, mirrored) if "detection" in c.tasks else {})

    def _objects(
        self, sample: Sample, rng: np.random.Generator, extent: np.ndarray, mirrored: bool
    ) -> dict[str, Any]:
        """Boxes in pixels of the view, their classes, and which positions answer for each."""
        most = self.config.regions
        boxes = checked(sample.get("boxes", ()), sample["id"])
        boxes = boxes * np.tile(extent / np.array(picture_size(sample), np.float32), 2)
        if mirrored:
            boxes[:, [0, 2]] = extent[0] - boxes[:, [2, 0]]
        labels = np.asarray(sample.get("box_labels", np.full(len(boxes), -1)), np.int64)
        ignored = np.asarray(sample.get("box_ignored", np.zeros(len(boxes))), bool)
        good = (labels >= 0) & (labels < self.classes) & solid(boxes) & ~ignored
        kept = rng.permutation(np.flatnonzero(good))[:most]
        room = most - len(kept)
        return {
            "boxes": np.pad(boxes[kept], ((0, room), (0, 0))),
            "box_labels": np.pad(labels[kept], (0, room), constant_values=-1),
            "answers": assigned(torch.from_numpy(boxes[kept]), self.levels),
        }

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of each sample; those of boxes are sums, beside what they are divided by."""
        heads = self.heads
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled, maps = self.seen(
                self._normalised(batch["image"]),
                "classification" in heads,
                len(heads) > ("classification" in heads),
            )
        out: dict[str, Tensor] = {}
        if "classification" in heads:
            logits = heads["classification"](pooled)
            out["classification"] = F.cross_entropy(logits.float(), batch["label"], reduction="none")
        if "segmentation" in heads:
            out["segmentation"] = pixel_loss(heads["segmentation"](maps), batch["semantic"])
        none = batch["image"].new_zeros(len(batch["image"]), dtype=torch.float32)
        return out | (
            self._boxes(maps, batch) if "detection" in heads else {"answering": none, "centredness": none}
        )

    def _boxes(self, maps: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        found = self.heads["detection"](maps)
        which = batch["answers"].to(self.squares.device)
        answering = which >= 0
        labels = batch["box_labels"].gather(1, which.clamp(min=0)).masked_fill(~answering, -1)
        wanted = F.one_hot(labels + 1, 1 + self.classes)[..., 1:].bool()
        sample, place = answering.nonzero(as_tuple=True)
        boxes, squares = batch["boxes"][sample, which[sample, place]], self.squares[place]
        centre = centredness(boxes, squares)

        def sums(values: Tensor) -> Tensor:
            return values.new_zeros(len(which)).index_add(0, sample, values)

        every = torch.ones(len(which), self.classes, dtype=torch.bool, device=which.device)
        own = decoded(found.deltas[sample, place].float(), squares)
        return {
            "classes": word_loss(found.words, wanted, every),
            "boxes": sums(box_loss(own, boxes, centre)),
            "centred": sums(centred_loss(found.centred[sample, place], centre)),
            "answering": answering.sum(1).float(),
            "centredness": sums(centre),
        }

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Classes and centres of boxes over the positions that answer for one, boxes over how centred these are."""
        out = {name: features[name] for name in ("classification", "segmentation") if name in features}
        if "detection" in self.heads:
            answering, centre = features.all("answering"), features.all("centredness")
            by_count = len(answering) / answering.sum().clamp(min=1)
            by_centre = len(centre) / centre.sum().clamp(min=1e-6)
            out |= {
                "classes": features["classes"] * by_count,
                "boxes": features["boxes"] * by_centre,
                "centred": features["centred"] * by_count,
            }
        return out

    def loss_weights(self) -> dict[str, float]:
        """ATSS's, of its code."""
        return {"boxes": 2.0}

    # ---------------------------------------------------------------------------------- the backbone's part

    def seen(
        self, pixels: Float[Tensor, "b c h w"], pooled: bool, maps: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The pooled features and the maps, those that are wanted. Of a plain transformer both come from one pass."""
        if not (maps and self.plain):
            return (self.pooled(pixels) if pooled else None), (self.feature_maps(pixels) if maps else [])
        tokens, grid = self.tokens(pixels)
        patches = tokens[:, -grid[0] * grid[1] :]
        one = [patches.transpose(1, 2).unflatten(2, grid)]
        if not pooled:
            return None, one
        if self.config.pool == "mean":
            return patches.mean(1), one
        return (tokens[:, 0] if isinstance(self.tower, VisionTransformer) else self.pooled(pixels)), one

    def feature_maps(self, pixels: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d i j"]]:
        """Maps on which dense heads stand, finest first."""
        if self.maps:
            pyramid = self.tower.pyramid(pixels)
            return [pyramid[n] for n in self.maps]
        return self.seen(pixels, pooled=False, maps=True)[1]

    # ---------------------------------------------------------------------------------------- capabilities

    def classify(self, batch: Batch) -> Float[Tensor, "b c"]:
        return self.heads["classification"](self.represent_image(batch))

    def segment(self, batch: Batch, size: int) -> Int[Tensor, "b s s"]:
        logits = self.heads["segmentation"](self.feature_maps(self._normalised(batch["image"])))
        return F.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False).argmax(1)

    def detect(self, batch: Batch, most: int) -> Float[Tensor, "b k 6"]:
        found = self.heads["detection"](self.feature_maps(self._normalised(batch["image"])))
        return best_objects(found, self.squares, batch["extent"], most)


def pixel_loss(logits: Float[Tensor, "b c h w"], truth: Tensor) -> Float[Tensor, "b"]:
    """Cross-entropy of each sample's pixels in ``truth`` [B, S, S], over those that are known; logits are brought to
    their size."""
    logits = F.interpolate(logits.float(), truth.shape[1:], mode="bilinear", align_corners=False)
    each = F.cross_entropy(logits, truth.long(), ignore_index=OUTSIDE, reduction="none")
    return each.sum((1, 2)) / (truth != OUTSIDE).sum((1, 2)).clamp(min=1)


class _Maps(nn.Module):
    """The feature maps as a module's own call, which is what ``functional_call`` calls."""

    def __init__(self, system: BattleOfBackbones) -> None:
        super().__init__()
        self.system = [system]
        self.image = system.image

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return self.system[0].feature_maps(pixels)


# ------------------------------------------------------------------------------------------------- presets

_KEYS = "keys=boxes+box_labels+semantic"
_SCENES = f"{tiny.FEW_CLASSES},{_KEYS}"
ALONE = ("heads.*",)
"""What is trained on a frozen backbone."""
ASKED = ("classify", "shifts", "image_retrieval", "segmentation", "detection")
"""What a backbone is compared by."""
_HEADS: Mapping[str, Any] = {"head_width": 32, "anchor": 4.0, "regions": 8}
_ADAMW = Optimizer(lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
"""Without a largest gradient norm, by which the heads of a run would touch one another."""


def _tiny() -> Recipe:
    """Heads of all tasks on a frozen CLIP, on scenes of one object of 24 classes: labelled, masked and boxed."""
    return Recipe(
        system="battle_of_backbones",
        model=BattleConfig(**tiny.FEW_PATCHES, **_HEADS, mean=_CLIP_MEAN, std=_CLIP_STD, pool="class"),
        budget="16000samples",
        batch=32,
        precision="32-true",
        init=Init("clip:tiny_patches"),
        optimizer=_ADAMW,
        stages=(Stage(trainable=ALONE, schedule=Schedule("cosine", warmup=0.1)),),
        data=Data(sources=(f"{_SCENES},scenes=1000",)),
        evaluation=Evaluation(tasks=ASKED),
    )


def _probe(width: int, heads: int, layers: int) -> Recipe:
    """The authors' vit_base_patch16_224_mae_lp.yaml: a linear classifier for ImageNet, 90 epochs of batches of 1,024 (8
    GPUs of 128), SGD at 0.4. ``--set init.run=FOUNDATION`` names the backbone."""
    return Recipe(
        system="battle_of_backbones",
        model=BattleConfig(width=width, heads=heads, layers=(layers,), tasks=("classification",)),
        budget=f"{90 * IMAGENET}samples",
        batch=1024,
        optimizer=Optimizer(part="sgd", lr=0.4, momentum=0.9, weight_decay=0.0),
        stages=(Stage(trainable=ALONE, schedule=Schedule("cosine", warmup=10 / 90)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=ASKED[:3]),
    )


def _whole(image_tower: str) -> Recipe:
    """The authors' convnext_b_im1k_ft.yaml: the whole backbone for ImageNet, 100 epochs of batches of 1,024 (8 GPUs of
    32, accumulated four times), AdamW at 1e-3, less for deeper layers."""
    return Recipe(
        system="battle_of_backbones",
        model=BattleConfig(image_tower=image_tower, drop_path=0.1, tasks=("classification",)),
        budget=f"{100 * IMAGENET}samples",
        batch=1024,
        init=Init(f"timm:{image_tower}", _OF_TIMM),
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, layer_decay=0.75),
        stages=(Stage(schedule=Schedule("cosine", warmup=5 / 100)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=ASKED[:3]),
    )


def _detect(image_tower: str) -> Recipe:
    """The authors' cascade_mask_rcnn_convnext-b_fpn_3x_coco_in1k_frozen: a frozen backbone on COCO, 36 epochs of batches
    of 16 (8 GPUs of 2), AdamW at 1e-4; with the light heads instead, and squares of 1,024 pixels."""
    return Recipe(
        system="battle_of_backbones",
        model=BattleConfig(image_tower=image_tower, image_size=1024, tasks=("detection",)),
        budget=f"{36 * COCO}samples",
        batch=16,
        precision="16-mixed",
        init=Init(f"timm:{image_tower}", _OF_TIMM),
        optimizer=Optimizer(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
        stages=(Stage(trainable=ALONE, schedule=Schedule("cosine", warmup=1000)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("detection",)),
    )


IMAGENET, COCO = 1_281_167, 117_266
_OF_TIMM = (("model.", "image.model."),)
_CLIP_MEAN, _CLIP_STD = ImageEncoderConfig.mean, ImageEncoderConfig.std


# -------------------------------------------------------------------------------------------------- claims

_IMAGENET_SCALE = {"mean": list(PlainEncoderConfig.mean), "std": list(PlainEncoderConfig.std)}
_PLAIN: Mapping[str, Any] = {"image_tower": "plain", **tiny.PLAIN, **_IMAGENET_SCALE, "pool": "mean"}
_CAPTIONS: Mapping[str, Any] = {}
"""The preset's own backbone."""
_TINYVIT: Mapping[str, Any] = {"image_tower": "tinyvit_nano", "image_size": 64, **_IMAGENET_SCALE}
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "CLIP": _CAPTIONS,
    "labels": {**_PLAIN, "init.run": "supervised:tiny"},
    "labels of another set": {**_TINYVIT, "init.run": "tinyvit:tiny"},
    "masked pixels": {**_PLAIN, "init.run": "mae:tiny"},
    "untrained transformer": {**_PLAIN, "init.run": ""},
    "untrained windows": {**_TINYVIT, "init.run": ""},
}
"""Whatever is here in small: three kinds of supervision, one without any, and two networks as they are drawn."""
_JUDGED = f"{_SCENES},split=test,scenes=400"
_METRICS = {
    "classification": "world/classify/top1",
    "shifts": "world/shifts/top1",
    "image retrieval": "world/image_retrieval/map_at_r",
    "segmentation": "world/segmentation/miou",
    "detection": "world/detection/ap",
}
_RATES = Tuning((1e-3, 4e-3), on=(f"{_JUDGED},seed=1",))
"""By scenes that judge none."""
_FROZEN: Mapping[str, Any] = {"evaluation.on": [_JUDGED], "data.workers": 0}


def _tasks_agree() -> Claim:
    arms = tuple(
        Arm(f"{name}, {task}", metric, set={**_FROZEN, **backbone})
        for name, backbone in BACKBONES.items()
        for task, metric in _METRICS.items()
    )
    return Claim(
        "tasks_agree",
        "Frozen backbones are ordered alike by classification, classification under shifts, image retrieval, "
        "segmentation and detection: the mean rank correlation of two of these is above one half.",
        "performance is strongly correlated across tasks: above 0.8 for detection and classification",
        arms,
        compare="rank_correlation",
        at_least=0.5,
        budget="4000samples",
        tuning=_RATES,
    )


_FEW, _MANY = "240", "4000"
"""Labelled scenes: ten of each of the 24 classes, and all that the foundation was trained on."""


def _scratch(number: str, run: str) -> dict[str, Any]:
    return {
        "init.run": run,
        "tasks": ["classification"],
        "stages.0.trainable": ["*"],
        "data.sources": [f"{tiny.FEW_CLASSES},scenes={number}"],
        "data.workers": 0,
        "evaluation.tasks": ["classify"],
        "evaluation.on": [f"{tiny.FEW_CLASSES},split=test,scenes=1000"],
    }


_FOUR = tuple(
    Arm(f"{kind}, {number} labels", _METRICS["classification"], set=_scratch(number, run))
    for number in (_FEW, _MANY)
    for kind, run in (("pretrained", "clip:tiny_patches"), ("from scratch", ""))
)
_WHOLE_RATES = Tuning((3e-4, 1e-3, 3e-3), on=(f"{tiny.FEW_CLASSES},split=test,seed=1,scenes=1000",))


def _pretraining(name: str, statement: str, **of: Any) -> Claim:
    return Claim(
        name,
        statement,
        "randomly initialised backbones are among those compared; pretrained ones make the ranking",
        _FOUR,
        treatment=_FOUR[0].name,
        control=_FOUR[1].name,
        budget="6000samples",
        tuning=_WHOLE_RATES,
        **of,
    )


CLAIMS = (
    _tasks_agree(),
    _pretraining(
        "pretrained_beats_scratch",
        "A backbone that was trained on captions, tuned as a whole on ten labels of a class, classifies better than the "
        "same network from fresh weights.",
    ),
    _pretraining(
        "most_on_few_labels",
        "What pretraining gives is more on ten labels of a class than on 167.",
        minus=(_FOUR[2].name, _FOUR[3].name),
    ),
)

SYSTEM = Plugin(
    system=BattleOfBackbones,
    config=BattleConfig,
    presets={
        "tiny": _tiny,
        "vit_b_16_probe": partial(_probe, 768, 12, 12),
        "vit_s_16_probe": partial(_probe, 384, 6, 12),
        "convnext_base_whole": partial(_whole, "convnext_base"),
        "convnext_base_detect": partial(_detect, "convnext_base"),
    },
    claims=CLAIMS,
)
