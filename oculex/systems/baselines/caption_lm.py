"""VirTex: Learning Visual Representations from Textual Annotations.

Karan Desai, Justin Johnson. CVPR 2021.

An image tower gives a grid of tokens; a causal transformer reads the caption so far, attends to the grid, and
predicts the next token (section 3: captioning, here in the forward direction). Both are trained from scratch, by the
cross-entropy averaged over tokens. It is the "transformer language model" of CLIP's figure 2, which predicts the exact
words of the caption, and to which bag of words prediction and CLIP are compared.

A text is rated by the mean log-likelihood of its tokens given the image: minus its loss. The sum is the likelihood of
the text itself, but falls with every token, so among texts of different lengths the shortest would win.

Departures. As in CLIP's figure 2 the image tower is CLIP's and the decoder has the size and the pre-norm blocks of
CLIP's text tower; VirTex has torchvision's ResNet-50 and one wide post-norm layer. No dropout, no second decoder that
reads the caption backwards, no Lookahead, because CLIP has none of them and the objective is what is compared. The
class token is part of the grid; what only a tower's pooled vector needs is left out, since nothing would train it.
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
from oculex.data.collate import Ragged
from oculex.data.views import image_view, text_view
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.language.decoder import TextDecoder
from oculex.objectives.captioning import next_token, predicted
from oculex.systems import tiny


@dataclass(frozen=True)
class CaptionLMConfig(ImageEncoderConfig):
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context: int = 77
    vocabulary: int = 49_408
    tokenizer: str = "clip"
    """clip, or corpus:SIZE for byte pairs learnt from the training captions."""
    crop: tuple[float, float] = (0.9, 1.0)
    """Area of the random square crop, as a share of the image."""


class CaptionLM(System, ImageEncoder):
    """An image tower and a decoder that writes the caption."""

    def __init__(self, config: CaptionLMConfig, assets: Assets) -> None:
        super().__init__(config)
        self._assets, c = assets, config
        for pooling in ("norm_post", "pool"):
            if hasattr(self.image, pooling):
                setattr(self.image, pooling, nn.Identity())
        self.decoder = TextDecoder(
            c.vocabulary, c.context, c.text_width, c.text_layers, c.text_heads, self.image.width, c.activation
        )

    @classmethod
    def build(cls, config: CaptionLMConfig, assets: Assets) -> CaptionLM:
        return cls(config, assets)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random square crop and one of the captions; without ``rng`` the centre and the first."""
        c = self.config
        return image_view(sample, rng, c.image_size, c.crop) | text_view(
            sample, rng, self._assets.tokenizer(c.tokenizer), c.context
        )

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": self.image.tokens(self._normalised(batch["image"]))[0]}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        text: Ragged = batch["tokens"]
        where = predicted(text)
        x = self.decoder(text, features["image"])[:, :-1][where]
        return {"captioning": next_token(self.decoder.logits(x), text.values[:, 1:][where])}

    def items(self, batch: Batch) -> dict[str, int]:
        return {"captioning": int((batch["tokens"].lengths - 1).sum())}

    def represent_image(self, batch: Batch) -> Float[Tensor, "b f"]:
        """The mean over the grid, from which VirTex transfers (section 4.1)."""
        return self.encode(batch)["image"].float().mean(1)

    def score_texts(self, images: Batch, texts: Batch) -> Float[Tensor, "i t"]:
        """Mean log-likelihood of each text's tokens, the end token included."""
        text: Ragged = texts["tokens"]
        return self.decoder.log_likelihood(text, self.encode(images)["image"]) / (text.lengths - 1)


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """As CLIP's ``tiny``, with a decoder of the size of its text tower."""
    return Recipe(
        system="caption_lm",
        model=CaptionLMConfig(**tiny.IMAGE, **tiny.TEXT, **tiny.WORDS, tokenizer="corpus:2048"),
        budget="180s",
        batch=256,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
        data=Data(sources=(tiny.ONE_OBJECT,)),
        # every pair is decoded: 2,000 scenes against 6,000 captions would take hours on a CPU
        evaluation=Evaluation(tasks=("zeroshot",), prompts="single"),
    )


def _rn50() -> Recipe:
    """CLIP's figure 2: its ResNet-50, a transformer of its text tower's 63 million parameters (to which cross-attention
    adds 13 million), 400 million pairs. Batch and optimizer, not told there, are CLIP's."""
    model = CaptionLMConfig(image_tower="resnet", image_size=224, width=64, layers=(3, 4, 6, 3), heads=32)
    return Recipe(
        system="caption_lm",
        model=model,
        budget="4e8samples",
        batch=32_768,
        precision="16-mixed",
        optimizer=Optimizer(lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.2),
        stages=(Stage(schedule=Schedule("cosine", warmup=2000)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("zeroshot",)),
    )


SYSTEM = Plugin(system=CaptionLM, config=CaptionLMConfig, presets={"tiny": _tiny, "rn50": _rn50})
