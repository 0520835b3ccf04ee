"""An encoder and a linear classifier that learn from labels, smoothed and mixed: what supervised systems share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from oculex.contracts import Assets, Batch, Features, Sample, UserError
from oculex.data.mixing import draw_mix, mixed, soft_labels
from oculex.data.multiview import crops
from oculex.data.views import image_view
from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig
from oculex.objectives.classification import soft_cross_entropy


@dataclass(frozen=True)
class ClassifierConfig(PlainEncoderConfig):
    """Defaults are DeiT's (Touvron et al. 2021, table 9)."""

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


class Classifier(PlainEncoder):
    """All that a system needs to learn to classify labelled images, and to do so."""

    def __init__(self, config: ClassifierConfig, assets: Assets) -> None:
        super().__init__(config)
        self.classes = config.classes or max(1, len(assets.classes()))
        self.classifier = nn.Linear(self.image.width, self.classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random crop, the label, and what is mixed; without ``rng`` the centre alone.

        Raises UserError for a sample whose label is missing or none of the classes.
        """
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
        """ "logits" and the soft "target" of the mixed images, [b, classes]."""
        pixels, share = mixed(self._normalised(batch["image"]), batch["mix"])
        return {
            "logits": self.classifier(self.pooled(pixels)),
            "target": soft_labels(batch["label"], share, self.classes, self.config.smoothing),
        }

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        return {"classification": soft_cross_entropy(features["logits"], features["target"])}

    def readout(self) -> nn.Linear:
        return self.classifier

    def classify(self, batch: Batch) -> Tensor:
        """Logits [B, classes]."""
        return self.classifier(self.represent_image(batch))
