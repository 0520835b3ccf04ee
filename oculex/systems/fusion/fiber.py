"""FIBER: Coarse-to-Fine Vision-Language Pre-training with Fusion in the Backbone.

Zi-Yi Dou, Aishwarya Kamath, Zhe Gan, Pengchuan Zhang, Jianfeng Wang, Linjie Li, Zicheng Liu, Ce Liu, Yann LeCun, Nanyun
Peng, Jianfeng Gao, Lijuan Wang. NeurIPS 2022.

A Swin and a RoBERTa whose last blocks look at each other through gated cross-attention, and need not: with the gates
left out they are a dual encoder (``oculex.nn.fusion_in_backbone``). The ``coarse`` stage learns from pairs (image,
text) by contrast, by matching with hard negatives and by hidden words. The ``fine`` stage goes on from its towers and
gates with GLIP's head (``oculex.nn.detection``) and boxes: phrases of a text, or names of classes as a text, are
found in the picture.

Departures. Contrast and hard negatives are over the global batch and the queue, the authors' over one device's part
of the batch and the queue; the queue is empty at first, not random. A pair's lower blocks, which are the same with
and without fusion, are computed once for all three losses. Of the first stage, RoBERTa's pooler, norms that nothing
uses and the captioning decoder of the downstream tasks are left out. Of the second, pictures are fitted into a square
instead of a batch's largest rectangle, keep one size and their order of channels, the learning rate falls along a
cosine instead of in two steps, and DropBlock is left out. The presets ``tiny`` and ``tiny_fine`` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import (
    Assets,
    BadSample,
    Batch,
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
from oculex.data.boxes import checked, class_prompt, fitted, phrases_of_tokens, picture_size, solid
from oculex.data.collate import Ragged
from oculex.data.masked_text import hide_words
from oculex.data.views import squeezed_view, text_view
from oculex.nn.detection import Found, GroundingHead, anchors, best_boxes, decoded
from oculex.nn.fusion_in_backbone import FusionInBackbone, FusionInBackboneConfig, LowerImage, LowerText
from oculex.nn.pair_queue import PairQueue
from oculex.nn.roberta import WordHead, drawn_as_berts, take_roberta
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
    "anchor",
    "regions",
    "negatives",
    "flip",
)


class Pooler(nn.Module):
    """A tower's vector in a space of its own: tanh(W2 W1 x). ``words`` is W1 alone, of every token."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.transform, self.pool = nn.Linear(inside, width), nn.Linear(width, width)
        self.apply(drawn_as_berts)

    def words(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n d"]:
        return self.transform(x)

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b d"]:
        return self.pool(self.transform(x)).tanh()


class FIBER(FusionInBackbone, System):
    """What the stages share: towers, gates and a vocabulary."""

    def __init__(self, config: FIBERConfig, assets: Assets) -> None:
        super().__init__(config)
        self._assets, name = assets, config.text_foundation
        if name and assets.sources():  # a finished run has these weights of its own
            take_roberta(self.text, name)

    @classmethod
    def build(cls, config: FIBERConfig, assets: Assets) -> FIBER:
        if config.stage not in STAGES:
            raise UserError(f"stage={config.stage!r} is unknown; known: {', '.join(STAGES)}")
        return STAGES[config.stage](config, assets)

    @property
    def tokenizer(self) -> Any:
        return self._assets.tokenizer(self.config.tokenizer)

    def represent_image(self, batch: Batch) -> Float[Tensor, "b f"]:
        """The mean of the image tower's tokens, which have seen no text."""
        return self.read_image(self.lower_image(self._normalised(batch["image"]))).mean(dim=1)


# -------------------------------------------------------------------------------------------- coarse stage


class Coarse(FIBER):
    """Pairs of images and texts (section 3.2)."""

    gathers = ("image", "text", "lower_image", "lower_text", "pixels", "ids", "lengths")

    def __init__(self, config: FIBERConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        c, image = config, self.image.width
        self.alone_image, self.alone_text = Pooler(image, c.embedding), Pooler(c.text_width, c.embedding)
        self.fused_image, self.fused_text = Pooler(image, c.embedding), Pooler(c.text_width, c.embedding)
        self.word_head = WordHead(c.embedding, c.vocabulary)
        self.match_head = nn.Linear(2 * c.embedding, 2)
        self.match_head.apply(drawn_as_berts)
        self.temperature = nn.Parameter(torch.tensor(c.temperature))
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
        _, words = self.fuse(image, self.lower_text(batch["masked"]), last_norm=False)
        logits = self.word_head(self.fused_text.words(words[hidden])).float()
        missed = F.cross_entropy(logits, text.values[hidden], reduction="none")
        length = self.config.context
        return {
            "image": self._alone_image(image),
            "text": self._alone_text(read),
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

    # ------------------------------------------------------------------------------------ capabilities

    def match(self, image: LowerImage, text: LowerText) -> Float[Tensor, "b 2"]:
        """Logits of "does not belong together" and "does", of an image and a text that have seen each other."""
        maps, words = self.fuse(image, text, last_norm=False)
        seen = [self.fused_text(words[:, 0]), self.fused_image(maps[-1].flatten(1, 2).mean(dim=1))]
        return self.match_head(torch.cat(seen, dim=-1))

    def encode_image(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Unit norm, without a look at any text."""
        return self._alone_image(self.lower_image(self._normalised(batch["image"])))

    def encode_text(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Unit norm, without a look at any image."""
        return self._alone_text(self.lower_text(batch["tokens"]))

    def score_texts(self, images: Batch, texts: Batch) -> Float[Tensor, "i t"]:
        """How much likelier than not each image and text belong together, by the fusion encoder."""
        maps = self.lower_image(self._normalised(images["image"])).map
        tokens: Ragged = texts["tokens"]
        tiles = [self.lower_text(tokens[start : start + TILE]) for start in range(0, len(tokens), TILE)]

        def row(own: Tensor) -> Tensor:
            logits = [
                self.match(LowerImage(own.expand(len(tile.lengths), -1, -1, -1)), tile) for tile in tiles
            ]
            return torch.cat(logits).float() @ torch.tensor([-1.0, 1.0], device=own.device)

        return torch.stack([row(own) for own in maps.split(1)])

    def _alone_image(self, image: LowerImage) -> Tensor:
        return F.normalize(self.alone_image(self.read_image(image).mean(dim=1)).float(), dim=-1)

    def _alone_text(self, text: LowerText) -> Tensor:
        return F.normalize(self.alone_text(self.read_text(text)[:, 0]).float(), dim=-1)


TILE = 128
"""Texts that are scored against an image at a time."""

# ---------------------------------------------------------------------------------------------- fine stage


class Fine(FIBER):
    """Pictures with boxes, and texts whose phrases mean them (section 3.2)."""

    gathers = ("answering", "centredness")
    squares: Tensor

    def __init__(self, config: FIBERConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        c = config
        if len(self.image.strides) < 3:
            raise UserError(f"image_tower={c.image_tower!r} has fewer than the three stages that find boxes")
        self.head = GroundingHead(
            self.image.channels[-3:],
            c.text_width,
            c.head_width,
            c.head_blocks,
            c.head_groups,
            c.deformable,
        )
        self.levels = anchors(c.image_size, self.image.strides[-3], c.anchor)
        self.register_buffer("squares", torch.cat(self.levels), persistent=False)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """The picture in a square; one of its grounded texts, or names of classes; its boxes, which tokens are about
        each, and which positions answer for it. Without ``rng`` the first grounded text, where there is one, and
        which tokens are about each phrase."""
        c = self.config
        if "image" not in sample:
            return squeezed_view(sample, rng, c.image_size)
        mirrored = rng is not None and rng.random() < c.flip
        image, extent = fitted(sample, c.image_size, c.mean, mirrored)
        if rng is None:
            asked = next(iter(sample.get("grounded") or ()), None)
            return {"image": image} | ({} if asked is None else self._read(asked, extent))
        text = self._text(sample, rng)
        boxes = checked(sample.get("boxes", ()), sample["id"])
        boxes = boxes * np.tile(extent / np.array(picture_size(sample), np.float32), 2)
        if mirrored:
            boxes[:, [0, 2]] = extent[0] - boxes[:, [2, 0]]
        tokens, about = self._located(text)
        named = np.zeros((len(boxes), c.context), bool)
        for phrase, meant in zip(about, text["boxes"], strict=True):
            named[meant] |= phrase
        ignored = np.asarray(sample.get("box_ignored", np.zeros(len(boxes))), bool)
        kept = rng.permutation(np.flatnonzero(named.any(1) & solid(boxes) & ~ignored))[: c.regions]
        padding = ((0, c.regions - len(kept)), (0, 0))
        return {
            "image": image,
            "tokens": tokens,
            "boxes": np.pad(boxes[kept], padding),
            "about": np.pad(named[kept], padding),
            "answers": assigned(torch.from_numpy(boxes[kept]), self.levels),
        }

    def _text(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """One of the grounded texts; where boxes have classes too, half of the time their names."""
        texts, labels = sample.get("grounded") or (), sample.get("box_labels")
        if labels is not None and (not texts or rng.random() < 0.5):
            names = self._assets.classes()
            return class_prompt(names, list(map(int, labels)), rng, self.config.negatives, self._fits)
        if not texts:
            raise BadSample(
                sample["id"], "has neither boxes with classes nor a text whose phrases mean boxes"
            )
        return texts[int(rng.integers(len(texts)))]

    def _fits(self, text: str) -> bool:
        context = self.config.context
        return len(self.tokenizer.encode(text, context + 1)) <= context

    def _located(self, text: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        """Tokens of a text, and which of them are about each phrase, [phrases, context]."""
        tokens, offsets = self.tokenizer.located(text["text"], self.config.context)
        return tokens, phrases_of_tokens(offsets, text["spans"], self.config.context)

    def _read(self, text: Mapping[str, Any], extent: np.ndarray) -> dict[str, Any]:
        tokens, about = self._located(text)
        most = self.config.regions
        if len(about) > most:
            raise UserError(f"{text['text'][:60]!r} asks for {len(about)} phrases, more than regions={most}")
        padded = np.pad(about, ((0, most - len(about)), (0, 0)))
        return {"tokens": tokens, "about": padded, "extent": extent}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Of each sample the sums of the losses, and what they are divided by."""
        found, seen = self._found(batch)
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

    def ground(self, batch: Batch, most: int) -> Float[Tensor, "b p k 5"]:
        """Boxes of the phrases, by the fusion encoder."""
        found, seen = self._found(batch)
        return best_boxes(found, self.squares, batch["about"][:, :, : seen.shape[1]], batch["extent"], most)

    def reads(self, text: Mapping[str, Any]) -> bool:
        return len(text["spans"]) <= self.config.regions and self._fits(text["text"])

    def _found(self, batch: Batch) -> tuple[Found, Tensor]:
        text: Ragged = batch["tokens"]
        read = self.lower_text(text)
        maps, words = self.fuse(self.lower_image(self._normalised(batch["image"])), read)
        seen = read.seen[:, 0, 0]
        return self.head(maps[-3:], words * seen[..., None]), seen


STAGES: dict[str, type[FIBER]] = {"coarse": Coarse, "fine": Fine}

# ------------------------------------------------------------------------------------------------- presets

FASTER = (("*head.*", 5.0), ("to_*", 5.0), ("fused_*", 5.0), ("alone_*", 5.0))
"""Heads, gates and poolers learn five times as fast (the authors' lr_mult_head and lr_mult_cross_modal)."""


def _tiny() -> Recipe:
    """64-pixel scenes of one object, minutes on two CPU cores, from fresh weights."""
    return Recipe(
        system="fiber",
        model=FIBERConfig(
            image_tower="swin",
            image_size=64,
            patch=4,
            width=32,
            layers=(1, 2, 3),
            heads=2,
            drop_path=0.0,
            fusion=2,
            text_width=128,
            text_layers=4,
            text_heads=2,
            text_dropout=0.0,
            vocabulary=1024,
            positions=66,
            tokenizer="corpus:1023",
            mask=1023,
            embedding=128,
            context=32,
            queue=0,
        ),
        budget="150s",
        batch=64,
        precision="32-true",
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.1)),),
        data=Data(sources=(tiny.ONE_OBJECT,)),
        evaluation=Evaluation(tasks=("zeroshot", "retrieval")),
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
    """Boxes in scenes of up to four objects; ``tiny`` is trained first, once."""
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
            anchor=3.0,
            regions=32,
            negatives=4,
            flip=0.0,
        ),
        init=Init("fiber:tiny", TAKEN),
        data=Data(sources=("world:most=4,keys=boxes+box_labels+grounded",)),
        evaluation=Evaluation(tasks=("grounding",), limit=300),
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


SYSTEM = Plugin(
    system=FIBER,
    config=FIBERConfig,
    presets={"tiny": _tiny, "tiny_fine": _tiny_fine, "base": _base, "base_fine": _base_fine},
)
