"""LanguageBind: Extending Video-Language Pretraining to N-modality by Language-based Semantic Alignment.

Bin Zhu, Bin Lin, Munan Ning, Yang Yan, Jiaxi Cui, HongFa Wang, Yatian Pang, Wenhao Jiang, Junwu Zhang, Zongwei Li,
Wancai Zhang, Zhifeng Li, Wei Liu, Li Yuan. ICLR 2024.

Language is the bind (section 3.3): the text tower of a CLIP stands still, and an encoder of each further modality learns
to match its captions by CLIP's loss. No modality ever meets another one, yet all lie in one space in the end. Each
encoder is the CLIP's image tower (section 3.2), which low-rank parts of its attention tune (LoRA), and of whose patches
some are left out in training. Depth and infrared are pictures of one value, a sound is the picture of its log mel
spectrogram, a video goes through attention over time that is laid before each block.

Trained beside the low-rank parts, as in the authors' code: the class token, the last norm, the projection, the
temperature; for video also the positions in time and the norm before the attention over time.

Departures. Videos are not mirrored, because captions say left and right, and frames are resized with antialiasing.
Infrared has a unit, kelvin, and a fixed range where its source knows it; the authors' pictures were made from colour
ones and are grey. The table of positions is fitted to the spectrogram in every pass, not once. The preset ``tiny`` is
ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oculex.contracts import (
    Arm,
    Assets,
    BadSample,
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
    Tokenizer,
    UserError,
)
from oculex.data.modalities import audio_view, depth_view, infrared_view, video_view
from oculex.data.views import image_view, text_view
from oculex.nn.image.modality import ModalityEncoder
from oculex.nn.image.plain_encoder import whole
from oculex.nn.joint.dual_encoder import DualEncoder, DualEncoderConfig
from oculex.nn.lora import merged
from oculex.nn.weights import adopt
from oculex.objectives.contrastive import contrastive
from oculex.systems import tiny


@dataclass(frozen=True)
class LanguageBindConfig(DualEncoderConfig):
    foundation: str = "open_clip:ViT-L-14/datacomp_xl_s13b_b90k"
    """The CLIP whose text tower binds and whose image tower the encoders begin as."""
    modalities: tuple[str, ...] = ("video", "audio", "depth", "infrared")
    """Beside image and text: entries of ``MODALITIES``."""
    rank: int = 16
    """r of LoRA."""
    alpha: float = 16.0
    """LoRA's scale is alpha / r."""
    patch_dropout: float = 0.5
    """Share of the patches that training leaves out: masked tokens (section 3.2)."""
    frames: int = 8
    """Of a video."""
    bins: int = 126
    """Mel filters: rows of the spectrogram."""
    length: int = 1036
    """Frames of 10 ms: columns of the spectrogram."""
    mel: tuple[float, float] = (-4.2677393, 4.5689974)
    """Mean and deviation of log mel values."""
    max_depth: float = 10.0
    """Metres."""
    kelvin: tuple[float, float] = (263.15, 343.15)
    """What infrared shows as black and as white; pictures without a unit stay as they are."""
    scale_limit: float = 100.0
    """Largest inverse temperature."""


@dataclass(frozen=True)
class Modality:
    """How one kind of sample reaches its encoder."""

    view: Callable[[LanguageBindConfig, Any, np.random.Generator | None, str], np.ndarray]
    """(configuration, the sample's value, randomness, name of the sample) -> the training view."""
    pixels: Callable[[LanguageBind, Tensor], Tensor]
    """A batch of views as the tower sees them."""
    video: bool = False
    picture: bool = False
    """Whether a view is one of the image tower's own size, so that any CLIP can look at it."""


class LanguageBind(System, DualEncoder):
    """A frozen dual encoder, and an encoder of each modality."""

    gathers = ("text", "modality")

    def __init__(self, config: LanguageBindConfig, assets: Assets) -> None:
        super().__init__(config)
        self._assets, c = assets, config
        unknown = [name for name in c.modalities if name not in MODALITIES]
        if unknown or not c.modalities:
            raise UserError(
                f"modalities={c.modalities} must name some of {', '.join(MODALITIES)}; image and text are always there"
            )
        if assets.sources():  # a finished run has these weights of its own
            adopt(self, assets.foundation(c.foundation), f"foundation={c.foundation!r}")
        self.encoders = nn.ModuleDict(
            {
                name: ModalityEncoder(
                    whole(self.image),
                    self.image_projection,
                    math.log(1 / c.temperature),
                    c.rank,
                    c.alpha,
                    c.frames if MODALITIES[name].video else 0,
                    c.patch_dropout,
                )
                for name in c.modalities
            }
        )

    @classmethod
    def build(cls, config: LanguageBindConfig, assets: Assets) -> LanguageBind:
        return cls(config, assets)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it encodes beside text."""
        return ("image", *self.config.modalities)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """Every modality that the sample has and one caption; the image, which nothing is trained on, only without
        ``rng``."""
        c = self.config
        view = {
            name: MODALITIES[name].view(c, sample[name], rng, sample["id"])
            for name in c.modalities
            if name in sample
        }
        if rng is None:
            view |= image_view(sample, None, c.image_size, (1.0, 1.0))
        elif not view:
            raise BadSample(sample["id"], f"has no {' or '.join(c.modalities)}, which this system trains on")
        return view | text_view(sample, rng, self.tokenizer, c.context)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """ "text" [b, D], and "modality" [b, M, D], those that the batch has in the order of the configuration."""
        encoded = [self.encode_modality(name, batch) for name in self._trained(batch)]
        return {"text": self.encode_text(batch), "modality": torch.stack(encoded, dim=1)}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """CLIP's loss of each modality against language, and of nothing else (equation 3)."""
        every = features.all("modality")
        alone = every is features["modality"]  # one process, whose logits hold both directions
        found = {}
        for n, name in enumerate(self._trained(batch)):
            own = features["modality"][:, n]
            found[name] = contrastive(
                own,
                features["text"],
                self._encoder(name).log_scale.exp(),
                own if alone else every[:, n],
                features.all("text"),
                features.start,
            )
        return found

    def _trained(self, batch: Batch) -> list[str]:
        return [name for name in self.config.modalities if name in batch]

    def _encoder(self, name: str) -> ModalityEncoder:
        found = self.encoders[name]
        assert isinstance(found, ModalityEncoder)
        return found

    def encode_modality(self, name: str, batch: Batch) -> Tensor:
        """Unit norm, [B, D]; ``name`` is one of ``modalities``."""
        if name == "image":
            return self.encode_image(batch)
        return self._encoder(name)(MODALITIES[name].pixels(self, batch[name]))

    def after_step(self, step: int, steps: int) -> None:
        with torch.no_grad():
            for name in self.config.modalities:
                self._encoder(name).log_scale.clamp_(max=math.log(self.config.scale_limit))

    def dual_encoder(self, name: str) -> DualEncoder:
        """A plain dual encoder of one modality and text, the low-rank parts merged into the weights: what `oculex export`
        writes. Raises UserError for what is no picture of the tower's size, of which other libraries have no tower, and
        for what it does not encode."""
        if name not in self.config.modalities:
            raise UserError(f"this system encodes {', '.join(self.modalities)}, not {name!r}")
        if not MODALITIES[name].picture:
            raise UserError(
                f"the tower of {name} does not see square pictures, so it is no CLIP; export another modality"
            )
        encoder = merged(self._encoder(name))
        alone = DualEncoder(self.config)
        for part, taken in (("image", encoder.tower), ("image_projection", encoder.projection)):
            alone.get_submodule(part).load_state_dict(taken.state_dict())  # type: ignore[union-attr, arg-type]
        alone.text.load_state_dict(self.text.state_dict())
        alone.text_projection.load_state_dict(self.text_projection.state_dict())
        alone.log_scale.data.copy_(encoder.log_scale.data)  # type: ignore[union-attr, arg-type]
        return alone.eval()


def _grey(system: LanguageBind, share: Tensor) -> Tensor:
    """One value in 0..1 as three equal colours, normalised as a picture is."""
    return (255 * share.expand(-1, 3, -1, -1) - system.mean) / system.std


def _film(system: LanguageBind, frames: Tensor) -> Tensor:
    return (frames.float() - system.mean) / system.std


MODALITIES: Mapping[str, Modality] = {
    "video": Modality(
        lambda c, x, rng, key: video_view(x, c.frames, c.image_size, rng, key), _film, video=True
    ),
    "audio": Modality(
        lambda c, x, rng, key: audio_view(x, c.bins, c.length, c.mel, rng, key), lambda _, x: x
    ),
    "depth": Modality(
        lambda c, x, rng, key: depth_view(x, c.image_size, c.max_depth, key), _grey, picture=True
    ),
    "infrared": Modality(
        lambda c, x, rng, key: infrared_view(x, c.image_size, c.kelvin, key), _grey, picture=True
    ),
}
"""By their key in a sample."""


# ------------------------------------------------------------------------------------------------- presets


def _stage(
    name: str, share: float, schedule: Schedule, coefficient: float, sources: tuple[str, ...] = ()
) -> Stage:
    """What is trained of one modality; ``coefficient`` is the learning rate of what is not low-rank."""
    encoder = f"encoders.{name}"
    parts = ["tower.class_token", "tower.norm_post.*", "projection.*", "log_scale"]
    if MODALITIES[name].video:
        parts += ["tower.blocks.*.times", "tower.blocks.*.norm.*"]
    low_rank = f"{encoder}.*lora_*"
    return Stage(
        name=name,
        share=share,
        trainable=(low_rank, *(f"{encoder}.{part}" for part in parts)),
        lr_scale=((low_rank, 1.0), (f"{encoder}.*", coefficient)),
        schedule=schedule,
        sources=sources,
    )


_SHARES = {"video": 0.25, "audio": 0.35, "depth": 0.2, "infrared": 0.2}
"""Of the small run: a sound has most to learn, for it is least like a picture."""


def _seen(*keys: str, split: str = "train", scenes: int = 4000, seed: int = 0) -> str:
    return f"{tiny.FEW_CONCEPTS},split={split},seed={seed},scenes={scenes},keys={'+'.join(keys)}"


def _tiny() -> Recipe:
    """64-pixel scenes of one object, seen by one further sensor at a time, from a small CLIP's transformer.

    Captions are those of the pictures, as the paper gives infrared and depth those of the frames that they were made
    from: of a caption each modality can match what it senses, shape more than all else. The ranges of depth and of
    temperature are those in which an object stands out.
    """
    schedule = Schedule("cosine", warmup=0.05)
    return Recipe(
        system="languagebind",
        model=LanguageBindConfig(
            **{**tiny.DUAL, **tiny.FEW_PATCHES},
            tokenizer="from:clip:tiny_patches",
            foundation="clip:tiny_patches",
            rank=8,
            patch_dropout=0.25,
            frames=2,
            bins=64,
            length=96,
            mel=(-12.6, 4.1),
            max_depth=4.0,
            kelvin=(288.15, 313.15),
        ),
        budget="40e3samples",
        batch=64,
        optimizer=Optimizer(lr=4e-3, weight_decay=0.1, clip_norm=1.0),
        stages=tuple(_stage(name, share, schedule, 0.25, (_seen(name),)) for name, share in _SHARES.items()),
        data=Data(sources=(tiny.FEW_CONCEPTS,)),
        evaluation=Evaluation(on=(_seen(*MODALITIES, split="test", scenes=1000),), tasks=("emergent",)),
    )


def _large(
    name: str,
    rank: int,
    lr: float,
    coefficient: float,
    dropout: float,
    budget: str,
    warmup: int,
    batch: int = 1024,
) -> Recipe:
    """The repository's training script of one modality, from DataComp's ViT-L/14."""
    return Recipe(
        system="languagebind",
        model=LanguageBindConfig(
            modalities=(name,),
            rank=rank,
            patch_dropout=dropout,
            patch=14,
            width=1024,
            layers=(24,),
            heads=16,
            activation="gelu",
            embedding=768,
            text_width=768,
            text_heads=12,
        ),
        budget=budget,
        batch=batch,
        precision="16-mixed",
        optimizer=Optimizer(lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
        stages=(_stage(name, 1.0, Schedule("cosine", warmup=warmup), coefficient),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("emergent",)),
    )


# -------------------------------------------------------------------------------------------------- claims

_UNTUNED = {"optimizer.lr": 0.0}
"""Every step leaves the weights as they were drawn and taken. There is nothing to tune of this arm; the other's rate was
tried on scenes of another seed than those that judge."""


def _emergent(a: str, b: str) -> Claim:
    metric = f"world/emergent/{a}_to_{b}_r10"
    return Claim(
        f"{a}_finds_{b}",
        f"Trained against language alone, {a} finds {b} of the same scene among its first ten more often than before.",
        "retrieval between modalities that were trained with language alone (section 4)",
        arms=(Arm("bound by language", metric), Arm("initialised, not trained", metric, set=_UNTUNED)),
        treatment="bound by language",
        control="initialised, not trained",
        budget="16000samples",
    )


CLAIMS = (_emergent("depth", "audio"), _emergent("infrared", "video"))

SYSTEM = Plugin(
    system=LanguageBind,
    config=LanguageBindConfig,
    presets={
        "tiny": _tiny,
        "video": partial(_large, "video", 16, 1e-4, 1.0, 0.3, "48.32e6samples", 2000, 640),
        "audio": partial(_large, "audio", 16, 1e-3, 1.0, 0.1, "76.8e6samples", 2000),
        "depth": partial(_large, "depth", 2, 5e-4, 1e-3, 0.5, "3.02e6samples", 200),
        "infrared": partial(_large, "infrared", 2, 1e-4, 1e-3, 0.5, "3.02e6samples", 200),
    },
    claims=CLAIMS,
)
