"""Learning Visual Features from Large Weakly Supervised Data.

Armand Joulin, Laurens van der Maaten, Allan Jabri, Nicolas Vasilache. ECCV 2016.

An image tower and a linear layer predict which words the caption has, whatever their order: a softmax over the
vocabulary, trained by cross-entropy against the caption's words (section 3.1: the multi-class logistic loss, found
to do better than one-versus-all). It is the "bag of words prediction" of CLIP's figure 2, from which CLIP differs
in the objective alone.

A text is rated by the mean log-probability of its distinct words: minus the loss that the text would have had as
the caption. A sum would rate short texts above long ones, for it falls with every word.

Departures. The towers are CLIP's, as in CLIP's figure 2, not AlexNet or GoogLeNet. The words are the tokenizer's
tokens, as everywhere here; the vocabularies in use hold common words whole. Frequent words are not left out (the
paper drops 500 of 100 million captions), because the same words in every prompt do not change which class is best.
Every word of the caption counts at each update, each of k words 1/k (Mahajan et al. 2018, section 2.2), where the
paper samples one word, uniformly over the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from oculex.contracts import (
    Assets,
    Batch,
    Data,
    Features,
    Optimizer,
    Plugin,
    Recipe,
    Sample,
    Schedule,
    Stage,
    System,
)
from oculex.data.views import image_view, text_view
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.objectives.captioning import bag_of_words, word_bags
from oculex.systems import tiny


@dataclass(frozen=True)
class CaptionBowConfig(ImageEncoderConfig):
    context: int = 77
    """Of a caption so many tokens are read, start and end included."""
    vocabulary: int = 49_408
    tokenizer: str = "clip"
    """clip, or corpus:SIZE for byte pairs learnt from the training captions."""
    crop: tuple[float, float] = (0.9, 1.0)
    """Area of the random square crop, as a share of the image."""


class CaptionBow(System, ImageEncoder):
    """An image tower and one linear classifier over all words."""

    def __init__(self, config: CaptionBowConfig, assets: Assets) -> None:
        super().__init__(config)
        self._assets = assets
        self.words = nn.Linear(self.image.width, config.vocabulary)
        nn.init.normal_(self.words.weight, std=self.image.width**-0.5)
        nn.init.zeros_(self.words.bias)

    @classmethod
    def build(cls, config: CaptionBowConfig, assets: Assets) -> CaptionBow:
        return cls(config, assets)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random square crop and one of the captions; without ``rng`` the centre and the first."""
        c = self.config
        return image_view(sample, rng, c.image_size, c.crop) | text_view(
            sample, rng, self._assets.tokenizer(c.tokenizer), c.context
        )

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": self.represent_image(batch)}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        bags = word_bags(batch["tokens"], self.config.vocabulary)
        return {"words": bag_of_words(self.words(features["image"]), bags)}

    def score_texts(self, images: Batch, texts: Batch) -> Float[Tensor, "i t"]:
        """Mean log-probability of each text's distinct words."""
        log_p = self.words(self.represent_image(images)).float().log_softmax(-1)
        return log_p @ word_bags(texts["tokens"], self.config.vocabulary).T


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """As CLIP's ``tiny``, with the classifier in place of the text tower."""
    return Recipe(
        system="caption_bow",
        model=CaptionBowConfig(**tiny.IMAGE, **tiny.WORDS, tokenizer="corpus:2048"),
        budget="180s",
        batch=256,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(tiny.ONE_OBJECT,)),
    )


def _rn50() -> Recipe:
    """CLIP's figure 2: its ResNet-50, 400 million pairs. Batch and optimizer, not told there, are CLIP's."""
    model = CaptionBowConfig(image_tower="resnet", image_size=224, width=64, layers=(3, 4, 6, 3), heads=32)
    return Recipe(
        system="caption_bow",
        model=model,
        budget="4e8samples",
        batch=32_768,
        precision="16-mixed",
        optimizer=Optimizer(lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.2),
        stages=(Stage(schedule=Schedule("cosine", warmup=2000)),),
        data=Data(sources=(), workers=8),
    )


SYSTEM = Plugin(system=CaptionBow, config=CaptionBowConfig, presets={"tiny": _tiny, "rn50": _rn50})
