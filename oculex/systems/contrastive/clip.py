"""CLIP: Learning Transferable Visual Models From Natural Language Supervision.

Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh, Gabriel Goh, Sandhini Agarwal, Girish Sastry, Amanda
Askell, Pamela Mishkin, Jack Clark, Gretchen Krueger, Ilya Sutskever. ICML 2021.

An image tower and a text tower are trained from scratch on pairs (image, caption). Each pair's two embeddings are
pulled together and pushed away from all other pairs of the batch: a symmetric cross-entropy over the N x N cosine
similarities, scaled by a learned temperature (figure 3). A classifier for any set of classes then is a set of
captions: the class whose prompts' mean embedding lies nearest to the image's wins (section 3.1).

Symbols: I_e, T_e are the unit-norm embeddings, t the log of the inverse temperature.

Departures. Captions are padded to the longest of the batch instead of to the context length, which changes nothing
because attention is causal. The loss is taken in float32. The preset ``tiny`` is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

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
from oculex.data.augment import random_resized_crop, resize_center_crop
from oculex.data.collate import Ragged
from oculex.nn.text import TextTransformer
from oculex.nn.towers import image_tower
from oculex.objectives.contrastive import contrastive


@dataclass(frozen=True)
class CLIPConfig:
    image_tower: str = "vit"
    """vit, resnet (the attention-pooled one of the paper), or any timm model."""
    image_size: int = 224
    patch: int = 32
    width: int = 768
    layers: tuple[int, ...] = (12,)
    """Blocks of the image tower, per stage."""
    heads: int = 12
    patch_dropout: float = 0.0
    embedding: int = 512
    """Width of the shared space."""
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context: int = 77
    vocabulary: int = 49_408
    tokenizer: str = "clip"
    """clip, or corpus:SIZE for byte pairs learnt from the training captions."""
    activation: str = "quick_gelu"
    temperature: float = 0.07
    """At the start."""
    scale_limit: float = 100.0
    """Largest inverse temperature (section 2.5)."""
    crop: tuple[float, float] = (0.9, 1.0)
    """Area of the random square crop, as a share of the image."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Of the pixels in 0..1, per channel."""


class CLIP(System, nn.Module):
    """Two towers and a temperature."""

    gathers = ("image", "text")
    mean: Tensor
    std: Tensor

    def __init__(self, config: CLIPConfig, assets: Assets) -> None:
        super().__init__()
        self.config, c = config, config
        self._assets = assets
        self.image = tower = image_tower(
            c.image_tower,
            size=c.image_size,
            patch=c.patch,
            width=c.width,
            layers=c.layers,
            heads=c.heads,
            activation=c.activation,
            patch_dropout=c.patch_dropout,
        )
        self.image_projection = nn.Linear(tower.width, c.embedding, bias=tower.projection_bias)
        self.text = TextTransformer(
            c.vocabulary, c.context, c.text_width, c.text_layers, c.text_heads, c.activation
        )
        self.text_projection = nn.Linear(c.text_width, c.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / c.temperature)))
        nn.init.normal_(self.image_projection.weight, std=tower.width**-0.5)
        nn.init.normal_(self.text_projection.weight, std=c.text_width**-0.5)
        self.register_buffer("mean", 255 * torch.tensor(c.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(c.std).view(3, 1, 1), persistent=False)

    @classmethod
    def build(cls, config: CLIPConfig, assets: Assets) -> CLIP:
        return cls(config, assets)

    # ------------------------------------------------------------------------------------ a sample's view

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random square crop and one of the captions (section 2.3); without ``rng`` the centre and the first."""
        c: CLIPConfig = self.config
        view: dict[str, Any] = {}
        if "image" in sample:
            key = sample["id"]
            if rng is None:
                view["image"] = resize_center_crop(sample["image"], c.image_size, key=key)
            else:
                view["image"] = random_resized_crop(sample["image"], c.image_size, rng, scale=c.crop, key=key)
        texts = sample.get("captions") or ([sample["caption"]] if "caption" in sample else [])
        if texts:
            text = texts[0 if rng is None else int(rng.integers(len(texts)))]
            view["tokens"] = self._assets.tokenizer(c.tokenizer).encode(text, c.context)
        return view

    # -------------------------------------------------------------------------------------------- losses

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        encoded = {}
        if "image" in batch:
            encoded["image"] = self.encode_image(batch)
        if "tokens" in batch:
            encoded["text"] = self.encode_text(batch)
        return encoded

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        return {
            "contrastive": contrastive(
                features["image"],
                features["text"],
                self.log_scale.exp(),
                features.all("image"),
                features.all("text"),
                features.start,
            )
        }

    def after_step(self, step: int, steps: int) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.config.scale_limit))

    # -------------------------------------------------------------------------------------- capabilities

    def represent_image(self, batch: Batch) -> Float[Tensor, "b f"]:
        """Features before the projection, on which the paper fits its linear probes (section 3.2)."""
        return self.image(self._normalised(batch["image"]))

    def encode_image(self, batch: Batch) -> Float[Tensor, "b d"]:
        """I_e, unit norm."""
        return F.normalize(self.image_projection(self.represent_image(batch)).float(), dim=-1)

    def encode_text(self, batch: Batch) -> Float[Tensor, "b d"]:
        """T_e, unit norm."""
        tokens: Ragged = batch["tokens"]
        return F.normalize(self.text_projection(self.text(tokens)).float(), dim=-1)

    def score_texts(self, images: Batch, texts: Batch) -> Float[Tensor, "i t"]:
        """Scaled cosine similarities, the paper's logits."""
        return self.log_scale.exp() * self.encode_image(images) @ self.encode_text(texts).T

    def _normalised(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (image.float() - self.mean) / self.std


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """64-pixel scenes of the embedded world, minutes on two CPU cores."""
    model = CLIPConfig(
        image_size=64,
        patch=8,
        width=192,
        layers=(4,),
        heads=3,
        embedding=128,
        text_width=128,
        text_layers=3,
        text_heads=2,
        context=32,
        vocabulary=2048,
        tokenizer="corpus:2048",
        activation="gelu",
    )
    return Recipe(
        system="clip",
        model=model,
        budget="150s",
        batch=256,
        optimizer=Optimizer(lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05)),),
    )


def _paper(model: CLIPConfig, lr: float, budget: str = "12.8e9samples") -> Recipe:
    """Tables 18 to 20: 32 epochs of 400 million pairs, batches of 32,768, 2,000 steps of warm-up."""
    resnet = model.image_tower == "resnet"
    return Recipe(
        system="clip",
        model=model,
        budget=budget,
        batch=32_768,
        precision="16-mixed",
        optimizer=Optimizer(
            lr=lr, betas=(0.9, 0.999 if resnet else 0.98), eps=1e-8 if resnet else 1e-6, weight_decay=0.2
        ),
        stages=(Stage(schedule=Schedule("cosine", warmup=2000)),),
        data=Data(sources=(), workers=8),
    )


def _resnet(size: int, width: int, layers: tuple[int, ...], embedding: int, text: int) -> CLIPConfig:
    return CLIPConfig(
        image_tower="resnet",
        image_size=size,
        width=width,
        layers=layers,
        heads=width // 2,
        embedding=embedding,
        text_width=text,
        text_heads=text // 64,
    )


def _vit(size: int, patch: int, width: int, layers: int, embedding: int) -> CLIPConfig:
    return CLIPConfig(
        image_size=size,
        patch=patch,
        width=width,
        layers=(layers,),
        heads=width // 64,
        embedding=embedding,
        text_width=embedding,
        text_heads=embedding // 64,
    )


SYSTEM = Plugin(
    system=CLIP,
    config=CLIPConfig,
    presets={
        "tiny": _tiny,
        "rn50": partial(_paper, _resnet(224, 64, (3, 4, 6, 3), 1024, 512), 5e-4),
        "rn101": partial(_paper, _resnet(224, 64, (3, 4, 23, 3), 512, 512), 5e-4),
        "rn50x4": partial(_paper, _resnet(288, 80, (4, 6, 10, 6), 640, 640), 5e-4),
        "rn50x16": partial(_paper, _resnet(384, 96, (6, 8, 18, 8), 768, 768), 4e-4),
        "rn50x64": partial(_paper, _resnet(448, 128, (3, 15, 36, 10), 1024, 1024), 3.6e-4),
        "vit_b_32": partial(_paper, _vit(224, 32, 768, 12, 512), 5e-4),
        "vit_b_16": partial(_paper, _vit(224, 16, 768, 12, 512), 5e-4),
        "vit_l_14": partial(_paper, _vit(224, 14, 1024, 24, 768), 4e-4),
        # the paper's is vit_l_14 trained for one more epoch at the larger size (section 2.5)
        "vit_l_14_336": partial(_paper, _vit(336, 14, 1024, 24, 768), 2e-5, "4e8samples"),
    },
)
