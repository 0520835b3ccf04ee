"""Objects as Points.

Xingyi Zhou, Dequan Wang, Philipp Krahenbuhl. 2019.

An object is the middle of its box: a map of heat for each class peaks where one is (equation 1), and what else there is
to say of it, how far the middle lies from its cell's corner and how large its box is, is read at the peak (equations 2
and 3). No anchors, and nothing is suppressed but what is no peak of its map.

It is here as a judge: what is in a picture, and where, said by a network that has learned it from true boxes, such as
what was drawn for a text (``oculex.evaluation.drawing``).

Departures. Maps of the tower's several resolutions are joined by a feature pyramid (Lin et al. 2017), where the paper's
smaller networks have deconvolutions. The errors of boxes count over an image's own objects, and images count alike. There
is no preset of the paper's: its networks are other towers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

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
from oculex.data.boxes import checked, fitted, picture_size, solid
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.objectives.centres import heat, heat_loss, radius
from oculex.systems import tiny

PRIOR = -2.19
"""Logit of a class at the start (section 5, as the authors' code has it)."""


@dataclass(frozen=True)
class CenterNetConfig(ImageEncoderConfig):
    image_tower: str = "resnet18"
    image_size: int = 512
    head_width: int = 64
    """Channels of the pyramid and of each head."""
    regions: int = 100
    """Most objects of an image that are learned from."""
    size_weight: float = 0.1
    """Of the boxes' sides."""
    flip: float = 0.5
    """Share of the pictures that are mirrored in training."""


class CenterNet(System, ImageEncoder):
    """A tower of several resolutions, a pyramid, and three heads on its finest level."""

    def __init__(self, config: CenterNetConfig, assets: Assets) -> None:
        super().__init__(config)
        c, tower = config, self.image
        if not getattr(tower, "strides", ()):
            raise UserError(
                f"image_tower={c.image_tower!r} has one resolution; take one of several, such as resnet18"
            )
        self.names = assets.classes()
        self.classes = max(1, len(self.names))
        self.stride = int(tower.strides[0])
        if c.image_size % tower.strides[-1]:
            raise UserError(
                f"image_size={c.image_size} is no multiple of {tower.strides[-1]}, the coarsest stride of "
                f"image_tower={c.image_tower!r}"
            )
        self.side = c.image_size // self.stride
        self.pyramid = FeaturePyramidNetwork(list(tower.channels), c.head_width)
        self.heat, self.offset, self.sides = (self._head(n) for n in (self.classes, 2, 2))
        nn.init.constant_(self.heat[-1].bias, PRIOR)  # type: ignore[arg-type]

    def _head(self, out: int) -> nn.Sequential:
        width = self.config.head_width
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, out, 1))

    @classmethod
    def build(cls, config: CenterNetConfig, assets: Assets) -> CenterNet:
        return cls(config, assets)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The whole picture in a square, mirrored or not, and its extent; with ``rng`` also the ``heat`` of each class,
        and of each object its cell and its box there, x and y within the cell and both sides, in cells."""
        c = self.config
        if "image" not in sample:
            return {}
        mirrored = rng is not None and rng.random() < c.flip
        image, extent = fitted(sample, c.image_size, c.mean, mirrored)
        view: dict[str, Any] = {"image": image, "extent": extent}
        if rng is None:
            return view
        boxes = checked(sample.get("boxes", ()), sample["id"])
        boxes = boxes * np.tile(extent / np.array(picture_size(sample), np.float32), 2)
        if mirrored:
            boxes[:, [0, 2]] = extent[0] - boxes[:, [2, 0]]
        labels = np.asarray(sample.get("box_labels", np.full(len(boxes), -1)), np.int64)
        good = np.flatnonzero((labels >= 0) & (labels < self.classes) & solid(boxes))
        kept = rng.permutation(good)[: c.regions]
        cells, labels = boxes[kept].astype(np.float64) / self.stride, labels[kept]
        middles, sides = (cells[:, :2] + cells[:, 2:]) / 2, cells[:, 2:] - cells[:, :2]
        corner = np.clip(np.floor(middles), 0, self.side - 1)
        radii = np.array([radius(height, width) for width, height in sides])
        room, square = c.regions - len(kept), (self.side, self.side)
        maps = [
            heat(square, corner[own, 1], corner[own, 0], radii[own])
            for own in (labels == n for n in range(self.classes))
        ]
        at = (corner[:, 1] * self.side + corner[:, 0]).astype(np.int64)
        return view | {
            "heat": np.stack(maps),
            "at": np.pad(at, (0, room), constant_values=-1),
            "place": np.pad(np.hstack([middles - corner, sides]).astype(np.float32), ((0, room), (0, 0))),
        }

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """What the heads say at each cell: "heat" [B, C, H, W], "offset" and "sides" [B, 2, H, W]."""
        maps = self.image.pyramid(self._normalised(batch["image"]))
        x = self.pyramid({str(n): each for n, each in enumerate(maps)})["0"]
        return {"heat": self.heat(x), "offset": self.offset(x), "sides": self.sides(x)}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The heat of all cells; the place of a middle in its cell, and the box's sides, where an object is."""
        real = batch["at"] >= 0
        count = real.sum(1).clamp(min=1)
        cells = batch["at"].clamp(min=0)[:, None].expand(-1, 2, -1)

        def error(name: str, wanted: Tensor) -> Tensor:
            found = features[name].float().flatten(2).gather(2, cells).transpose(1, 2)
            return ((found - wanted).abs().sum(-1) * real).sum(1) / count

        return {
            "heat": heat_loss(features["heat"], batch["heat"]),
            "offset": error("offset", batch["place"][..., :2]),
            "sides": error("sides", batch["place"][..., 2:]),
        }

    def loss_weights(self) -> dict[str, float]:
        return {"sides": self.config.size_weight}

    def detect(self, batch: Batch, most: int) -> Float[Tensor, "b k 6"]:
        """Peaks are cells whose heat none of their eight neighbours exceeds."""
        found = self.encode(batch)
        heat = found["heat"].float().sigmoid()
        peaks = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
        top, where = peaks.flatten(1).topk(min(most, peaks[0].numel()))
        cell = where % self.side**2
        spread = cell[:, None].expand(-1, 2, -1)
        offset, sides = (found[name].float().flatten(2).gather(2, spread) for name in ("offset", "sides"))
        middle = torch.stack([cell % self.side, cell // self.side], 1) + offset
        low, high = middle - sides.clamp(min=0) / 2, middle + sides.clamp(min=0) / 2
        boxes = (
            torch.cat([low, high], 1).transpose(1, 2) * self.stride / batch["extent"].repeat(1, 2)[:, None]
        )
        label = (where // self.side**2).to(top.dtype)
        out = torch.cat([label[..., None], top[..., None], boxes.clamp(0, 1)], -1)
        return F.pad(out, (0, 0, 0, most - out.shape[1]), value=torch.nan)


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """Small scenes of one or two objects of 24 classes: who judges drawings of them."""
    return Recipe(
        system="centernet",
        model=CenterNetConfig(
            image_tower="resnet", image_size=32, width=16, layers=(1, 1, 1), heads=8, head_width=48, regions=4
        ),
        budget="32e3samples",
        batch=64,
        precision="32-true",
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, clip_norm=5.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(tiny.FEW_WITH_BOXES,)),
        evaluation=Evaluation(tasks=("detection",)),
    )


SYSTEM = Plugin(system=CenterNet, config=CenterNetConfig, presets={"tiny": _tiny})
