"""FIBER: Coarse-to-Fine Vision-Language Pre-training with Fusion in the Backbone.

Zi-Yi Dou, Aishwarya Kamath, Zhe Gan, Pengchuan Zhang, Jianfeng Wang, Linjie Li, Zicheng Liu, Ce Liu, Yann LeCun, Nanyun
Peng, Jianfeng Gao, Lijuan Wang. NeurIPS 2022.

A Swin and a RoBERTa whose last blocks look at each other through gated cross-attention, and need not: with the gates
left out they are a dual encoder (``oculex.nn.joint.fusion_in_backbone``). The ``coarse`` stage learns from pairs (image,
text) by contrast, by matching with hard negatives and by hidden words. The ``fine`` stage goes on from its towers and
gates with GLIP's head (``oculex.nn.dense.detection``) and boxes: phrases of a text, or names of classes as a text, are
found in the picture.

Departures. Contrast and hard negatives are over the global batch and the queue, the authors' over one device's part
of the batch and the queue; the queue is empty at first, not random. A pair's lower blocks, which are the same with
and without fusion, are computed once for all three losses. Of the first stage, RoBERTa's pooler, norms that nothing
uses and the captioning decoder of the downstream tasks are left out. Of the second, pictures are fitted into a square
instead of a batch's largest rectangle, keep one size and their order of channels, the learning rate falls along a
cosine instead of in two steps, and DropBlock is left out. The presets ``tiny`` and ``tiny_fine`` are ours; their few
channels need weights that are drawn wider (``deviation``) and words that count more at the start (``log_scale``).
``place=top`` is no part of FIBER: what a claim compares it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
    UserError,
)
from oculex.data.collate import Ragged
from oculex.data.grounded_view import GroundedView
from oculex.data.masked_text import hide_words
from oculex.data.views import squeezed_view, text_view
from oculex.nn.dense.detection import decoded
from oculex.nn.joint.fused_boxes import FusedBoxes
from oculex.nn.joint.fused_pairs import FusedPairs
from oculex.nn.joint.fusion_in_backbone import FusionInBackbone, FusionInBackboneConfig, LowerImage, LowerText
from oculex.nn.language.roberta import take_roberta
from oculex.nn.memory.pair_queue import PairQueue
from oculex.objectives.continual import by_text, momentum_contrast
from oculex.objectives.grounding import assigned, box_loss, centred_loss, centredness, word_loss
from oculex.objectives.matching import hard_negatives, matching
from oculex.systems import tiny


@dataclass(frozen=True)
class FIBERConfig(FusionInBackboneConfig):
    stage: str = "coarse"
    """coarse or fine."""
    text_foundation: str = ""
    """Published RoBERTa (a folder or a name on the hub) whose weights the text tower begins from; empty: fresh ones,
    or the recipe's ``init``."""
    embedding: int = 768
    """Width of the shared space."""
    context: int = 40
    """Most tokens of a text."""
    hidden: float = 0.15
    """Share of the words that are hidden."""
    mask: int = 50_264
    """The token that stands for a hidden word."""
    queue: int = 4096
    """Earlier pairs that are told from and matched wrongly."""
    temperature: float = 0.07
    """At the start; it is learned."""
    head_width: int = 256
    """Of the fine stage's pyramid and head."""
    head_blocks: int = 6
    head_groups: int = 16
    """Of its group norms."""
    deformable: bool = True
    """Whether its convolutions choose where they look; on a CPU that takes many times as long."""
    log_scale: float = 0.0
    """Log of what the dot products of places and words are divided by at the start; it is learned. Over few channels they
    are small, and which word a place is about shows late; a negative one makes up for it."""
    anchor: float = 8.0
    """Side of a position's anchor, in strides of its level."""
    regions: int = 100
    """Most boxes of a sample that are learned from, and most phrases that are asked for."""
    negatives: int = 85
    """Most names of classes that are not in the picture."""
    flip: float = 0.5
    """Share of the pictures that are mirrored in the fine stage."""

    def unused(self) -> dict[str, str]:
        other = FINE_FIELDS if self.stage == "coarse" else COARSE_FIELDS
        return super().unused() | {name: f"has no effect on stage={self.stage}" for name in other}


COARSE_FIELDS = ("embedding", "hidden", "mask", "queue", "temperature")
FINE_FIELDS = (
    "head_width",
    "head_blocks",
    "head_groups",
    "deformable",
    "log_scale",
    "anchor",
    "regions",
    "negatives",
    "flip",
)


class FIBER(FusionInBackbone, System):
    """What the stages share: towers, gates and a vocabulary."""

    _assets: Assets

    @classmethod
    def build(cls, config: FIBERConfig, assets: Assets) -> FIBER:
        if config.stage not in STAGES:
            raise UserError(f"stage={config.stage!r} is unknown; known: {', '.join(STAGES)}")
        system = STAGES[config.stage](config)
        system._assets = assets
        if config.text_foundation and assets.sources():  # a finished run has these weights of its own
            take_roberta(system.text, config.text_foundation)
        return system

    @property
    def tokenizer(self) -> Any:
        return self._assets.tokenizer(self.config.tokenizer)

    def represent_image(self, batch: Batch) -> Tensor:
        """[B, F]: the mean of the image tower's tokens, which have seen no text."""
        return self.read_image(self.lower_image(self._normalised(batch["image"]))).mean(dim=1)


# -------------------------------------------------------------------------------------------- coarse stage


class Coarse(FusedPairs, FIBER):
    """Pairs of images and texts (section 3.2)."""

    gathers = ("image", "text", "lower_image", "lower_text", "pixels", "ids", "lengths")

    def __init__(self, config: FIBERConfig) -> None:
        super().__init__(config)
        c = config
        self.temperature = torch.nn.Parameter(torch.tensor(c.temperature))
        self.queue = PairQueue(c.queue, c.embedding, c.image_size, c.context)
        self._seen: tuple[Tensor, ...] | None = None

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The whole picture as a square, one of the captions, the same with words hidden, and two random numbers by
        which a pair's hard negatives are drawn; without ``rng`` the first caption alone."""
        c = self.config
        view = squeezed_view(sample, rng, c.image_size) | text_view(sample, rng, self.tokenizer, c.context)
        if rng is not None:
            *words, end = view["tokens"]
            masked, hidden = hide_words(words, rng, c.hidden, c.mask, c.vocabulary)
            view |= {"masked": [*masked, end], "hidden": [*hidden, 0], "draws": rng.random(2)}
        return view

    def items(self, batch: Batch) -> dict[str, int]:
        """The loss of words is a mean over the hidden ones."""
        return {"words": int(batch["hidden"].values.sum())}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        text: Ragged = batch["tokens"]
        image, read = self.lower_image(self._normalised(batch["image"])), self.lower_text(text)
        hidden = batch["hidden"].values.bool()
        logits = self.hidden_words(image, batch["masked"], hidden)
        missed = F.cross_entropy(logits, text.values[hidden], reduction="none")
        length = self.config.context
        return {
            "image": self.embed_image(image),
            "text": self.embed_text(read),
            "words": by_text(missed, hidden),
            "match": self.match(image, read),
            "lower_image": image.map,
            "lower_text": read.padded(length),
            "pixels": batch["image"],
            "ids": F.pad(text.values, (0, length - text.values.shape[1])),
            "lengths": text.lengths,
        }

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Contrast, with the columns detached as the authors do; matching; hidden words (section 3.2)."""
        image, text, lengths = (features[name] for name in ("image", "text", "lengths"))
        images, texts = features.all("image").detach(), features.all("text").detach()
        past_images, past_texts = self.queue.vectors()
        self._seen = (images, texts, *(features.all(name) for name in ("pixels", "ids", "lengths")))
        scale, draws = 1 / self.temperature, batch["draws"].to(image.device)
        truth = torch.arange(features.start, features.start + len(image), device=image.device)
        other_text = hard_negatives(image, torch.cat([texts, past_texts]), scale, truth, draws[:, 0])
        other_image = hard_negatives(text, torch.cat([images, past_images]), scale, truth, draws[:, 1])
        own = LowerImage(features["lower_image"]), LowerText.cut(features["lower_text"], lengths)
        return {
            "contrastive": momentum_contrast(
                image, text, scale, images, texts, past_images, past_texts, features.start
            ),
            "words": features["words"],
            "matching": matching(
                features["match"],
                self.match(own[0], self._texts(features, other_text)),
                self.match(self._images(features, other_image), own[1]),
            ),
        }

    def _images(self, features: Features, at: Tensor) -> LowerImage:
        """Images of the batch, and earlier ones, which are read again."""
        known = features.all("lower_image")
        maps, old = known[at.clamp(max=len(known) - 1)], at >= len(known)
        if old.any():
            pixels = self._normalised(self.queue.pixels[at[old] - len(known)])
            maps = maps.index_put((old,), self.lower_image(pixels).map.to(maps.dtype))
        return LowerImage(maps)

    def _texts(self, features: Features, at: Tensor) -> LowerText:
        """Texts of the batch, and earlier ones, which are read again."""
        known, lengths = features.all("lower_text"), features.all("lengths")
        inside, old = at.clamp(max=len(known) - 1), at >= len(known)
        words, lengths = known[inside], lengths[inside]
        if old.any():
            again = self.lower_text(self.queue.texts(at[old] - len(known)))
            words = words.index_put((old,), again.padded(words.shape[1]).to(words.dtype))
            lengths = lengths.index_put((old,), again.lengths)
        return LowerText.cut(words, lengths)

    def after_step(self, step: int, steps: int) -> None:
        with torch.no_grad():
            self.temperature.clamp_(0.001, 1.0)
        if self._seen is not None:
            self.queue.push(*self._seen)
        self._seen = None


# ---------------------------------------------------------------------------------------------- fine stage


class Fine(FusedBoxes, FIBER):
    """Pictures with boxes, and texts whose phrases mean them (section 3.2)."""

    gathers = ("answering", "centredness")

    @property
    def _reader(self) -> GroundedView:
        c = self.config
        return GroundedView(self.tokenizer, c.image_size, c.mean, c.context, c.regions, c.negatives, c.flip)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The picture in a square, a text, its boxes, which tokens are about each and which positions answer for it.
        Without ``rng`` the first grounded text and which tokens are about each phrase."""
        if "image" not in sample:
            return squeezed_view(sample, rng, self.config.image_size)
        if rng is None:
            return self._reader.asked(sample)
        view = self._reader.training(sample, rng, self._assets.classes())
        boxes = torch.from_numpy(view["boxes"][view["about"].any(1)])
        return view | {"answers": assigned(boxes, self.levels)}

    def reads(self, text: Any) -> bool:
        return self._reader.reads(text)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Of each sample the sums of the losses, and what they are divided by."""
        found, seen = self.found(batch)
        which = batch["answers"].to(self.squares.device)
        answering, about = which >= 0, batch["about"][:, :, : seen.shape[1]]
        named = about.gather(1, which.clamp(min=0)[..., None].expand(-1, -1, seen.shape[1]))
        sample, place = answering.nonzero(as_tuple=True)
        boxes, squares = batch["boxes"][sample, which[sample, place]], self.squares[place]
        centre = centredness(boxes, squares)
        of_box = box_loss(decoded(found.deltas[sample, place].float(), squares), boxes, centre)
        of_centre = centred_loss(found.centred[sample, place], centre)

        def sums(values: Tensor) -> Tensor:
            return values.new_zeros(len(which)).index_add(0, sample, values)

        return {
            "words": word_loss(found.words, named & answering[..., None], seen),
            "boxes": sums(of_box),
            "centred": sums(of_centre),
            "answering": answering.sum(1).float(),
            "centredness": sums(centre),
        }

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Words and centres over the positions that answer for a box, boxes over how centred these are."""
        answering, centre = features.all("answering"), features.all("centredness")
        by_count = len(answering) / answering.sum().clamp(min=1)
        by_centre = len(centre) / centre.sum().clamp(min=1e-6)
        return {
            "words": features["words"] * by_count,
            "boxes": features["boxes"] * by_centre,
            "centred": features["centred"] * by_count,
        }

    def loss_weights(self) -> dict[str, float]:
        """The authors' REG_LOSS_WEIGHT."""
        return {"boxes": 2.0}


STAGES: dict[str, Any] = {"coarse": Coarse, "fine": Fine}

# ------------------------------------------------------------------------------------------------- presets

FASTER = (("*head.*", 5.0), ("to_*", 5.0), ("fused_*", 5.0), ("alone_*", 5.0))
"""Heads, gates and poolers learn five times as fast (the authors' lr_mult_head and lr_mult_cross_modal)."""
_SEEN = "16e3samples"


def _tiny() -> Recipe:
    """48-pixel scenes of one or two objects, from fresh weights."""
    return Recipe(
        system="fiber",
        model=FIBERConfig(
            **tiny.SWIN,
            drop_path=0.0,
            fusion=2,
            text_width=64,
            text_layers=3,
            text_heads=2,
            text_dropout=0.0,
            deviation=0.07,
            vocabulary=512,
            positions=66,
            tokenizer="corpus:511",
            mask=511,
            embedding=64,
            context=24,
            queue=0,
        ),
        budget=_SEEN,
        batch=32,
        precision="32-true",
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01, clip_norm=1.0),
        stages=(Stage(lr_scale=FASTER, schedule=Schedule("linear", warmup=0.1)),),
        data=Data(
            sources=(tiny.PAIRS,),
            workers=0,
        ),
        evaluation=Evaluation(tasks=("retrieval", "matching"), limit=500),
    )


def _base() -> Recipe:
    """The authors' configuration of the first stage: 100,000 steps of 4,096 pairs at 384 pixels."""
    return Recipe(
        system="fiber",
        model=FIBERConfig(text_foundation="FacebookAI/roberta-base"),
        budget="100000steps",
        batch=4096,
        precision="32-true",
        init=Init("timm:swin_base_patch4_window12_384.ms_in22k", (("model.", "image.model."),)),
        optimizer=Optimizer(lr=1e-5, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01),
        stages=(Stage(lr_scale=FASTER, schedule=Schedule("linear", warmup=0.1)),),
        data=Data(sources=(), workers=8),
    )


TAKEN = tuple((part, part) for part in ("image.", "text.", "to_image.", "to_text."))
"""What the fine stage begins from: towers and gates of a coarse one."""


def _tiny_fine() -> Recipe:
    """Boxes in scenes of up to three objects; ``tiny`` is trained first, once."""
    coarse = _tiny()
    return replace(
        coarse,
        model=replace(
            coarse.model,
            stage="fine",
            tokenizer="from:fiber:tiny",
            context=64,
            head_width=64,
            head_blocks=2,
            head_groups=8,
            deformable=False,
            log_scale=-1.5,
            anchor=3.0,
            regions=16,
            negatives=4,
            flip=0.0,
        ),
        budget="12e3samples",
        batch=32,
        init=Init("fiber:tiny", TAKEN),
        optimizer=replace(coarse.optimizer, lr=2e-3, betas=(0.9, 0.999)),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.1)),),
        data=Data(sources=(tiny.BOXES,), workers=0),
        evaluation=Evaluation(tasks=("grounding", "detection"), limit=300),
    )


def _base_fine() -> Recipe:
    """The authors' mixed_nococo_flickr_objects365.yaml: 800,000 steps of 64 pictures. ``--set init.run=RUN`` names
    the coarse stage that it goes on from."""
    return Recipe(
        system="fiber",
        model=FIBERConfig(stage="fine", image_size=1344, drop_path=0.4, context=256),
        budget="800000steps",
        batch=64,
        precision="16-mixed",
        init=Init("", TAKEN),
        optimizer=Optimizer(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, clip_norm=1.0),
        stages=(
            Stage(lr_scale=(("text.*", 0.1), ("to_text.*", 0.1)), schedule=Schedule("cosine", warmup=2000)),
        ),
        ema=0.999,
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("grounding", "detection")),
    )


# -------------------------------------------------------------------------------------------------- claims

_PAIRS = {"evaluation.on": [f"{tiny.HELD_PAIRS},seed=2"]}
_FEW = {
    "data.sources": [tiny.FEW_BOXES],
    "budget": "4000samples",
    "evaluation.on": [f"{tiny.HELD_BOXES},seed=2"],
    "evaluation.tasks": ["grounding"],
}
"""Two hundred scenes with boxes, and others for the judge."""
_COARSE = Arm("coarse stage", "world/retrieval/text_to_image_r1", set=_PAIRS)
_LABELS = Arm(
    "image foundation",
    "world/classify/top1",
    system="supervised",
    set={
        **{f"model.{name}": value for name, value in tiny.SWIN.items()},
        "model.crop": [1.0, 1.0],
        "budget": _SEEN,
        "precision": "32-true",
        "data.sources": [tiny.PAIRS],
        "data.workers": 0,
        "evaluation.tasks": ["classify"],
        **_PAIRS,
    },
)
"""The towers' other way to begin: the same pictures, as many of them, told the class of their main object."""


def _fine(name: str, first: Arm, take: Sequence[tuple[str, str]], metric: str) -> Arm:
    changes = _FEW | {"init.take": [list(each) for each in take]}
    return Arm(name, f"world/grounding/{metric}", preset="tiny_fine", set=changes, starts_from=first.name)


def _few_boxes(metric: str, told: str) -> Claim:
    return Claim(
        f"few_boxes_{metric.partition('_')[0]}",
        f"With two hundred boxed scenes {told} are found better after the coarse stage than from an image foundation.",
        "often better than methods that use magnitudes more data, by coarse-to-fine pre-training (abstract)",
        arms=(
            _COARSE,
            _LABELS,
            _fine("coarse to fine", _COARSE, TAKEN, metric),
            _fine("fine alone", _LABELS, (("image.", "image."),), metric),
        ),
        treatment="coarse to fine",
        control="fine alone",
    )


def _against_top(
    name: str, statement: str, metric: str, compare: str = "difference", at_least: float = 0.0
) -> Claim:
    inside = Arm("in the backbone", metric, set=_PAIRS)
    above = Arm("on top", metric, set=_PAIRS | {"model.place": "top"})
    return Claim(
        name,
        statement,
        "gains in memory and performance over dedicated layers after the backbones (abstract)",
        (inside, above),
        inside.name,
        above.name,
        compare=compare,
        at_least=at_least,
    )


CLAIMS = (
    _few_boxes("phrases_r1", "phrases of a description"),
    _few_boxes("expression_r1", "expressions that fit one object alone"),
    _against_top(
        "fusion_costs_less",
        "With fusion in the last blocks an update computes less than with as many layers of co-attention on top.",
        "train/operations_per_sample",
        compare="ratio",
        at_least=1.0,
    ),
    _against_top(
        "fusion_matches_as_well",
        "Fusion in the last blocks tells captions from others' at most two points worse than as many layers on top.",
        "world/matching/caption",
        at_least=-0.02,
    ),
)

SYSTEM = Plugin(
    system=FIBER,
    config=FIBERConfig,
    presets={"tiny": _tiny, "tiny_fine": _tiny_fine, "base": _base, "base_fine": _base_fine},
    claims=CLAIMS,
)
