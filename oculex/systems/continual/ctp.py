"""CTP: Towards Vision-Language Continual Pretraining via Compatible Momentum Contrast and Topology Preservation.

Hongguang Zhu, Yunchao Wei, Xiaodan Liang, Chunjie Zhang, Yao Zhao. ICCV 2023.

Pairs (image, text) arrive task by task, and no earlier pair is seen again. ALBEF's network learns each task by matching
pairs and by predicting hidden words. Two things keep what it knew. A momentum model is led to the mean of the network
and of the model that the last task ended with, so that contrast with its vectors, of this batch and of a queue, is
compatible with both. And the similarities among the samples of a batch, across and within modalities, are held to
those that the previous model saw: how samples lie among one another is kept, where they lie is free.

The compared methods are the same network with others in ``keep``: () is fine-tuning, and joint training without
``data.stream``; ("elastic",) is EWC; ("response",) is LwF; ("momentum",) with ``compatible=False`` is momentum contrast;
``stages.0.replay`` adds experience replay to any.

Built from the authors' code; of the paper its abstract was at hand.

Departures. The momentum vectors of the whole global batch are contrasted with, not those of one device. Weights are
fresh, where the authors begin from DeiT's and a Chinese BERT's. Weight decay leaves gains and biases alone. Pictures are
evaluated by their centre square, where the authors squeeze them to one. Texts are padded to the longest of the batch,
which changes nothing. Recall is measured task by task among that task's own pairs, so that numbers at different stages
have one gallery; the authors' gallery is the union of the tasks so far. Of the compared methods SI, MAS, RWalk, AFEC,
iCaRL, LUCIR and buffers chosen otherwise than by a reservoir are left out. The preset ``tiny`` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import (
    Arm,
    Assets,
    Batch,
    Checkpoint,
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
from oculex.data.albef import plain_text, rand_augment
from oculex.data.masked_text import hide_words
from oculex.data.views import caption, image_view
from oculex.nn.joint.fusion import FusionConfig, FusionNetwork, Reading
from oculex.nn.memory.forgetting import Elastic, Method, Momentum, Response, Topology, hidden
from oculex.nn.memory.teacher import Teacher
from oculex.objectives.continual import by_text
from oculex.objectives.contrastive import contrastive


@dataclass(frozen=True)
class CTPConfig(FusionConfig):
    keep: tuple[str, ...] = ("momentum", "topology")
    """What is done against forgetting: entries of ``METHODS``."""
    compatible: bool = True
    """Whether the momentum model is led to the previous model too, and begins every task as its copy."""
    momentum: float = 0.995
    """Of the momentum model in the first task, and in all of them without ``compatible``."""
    compatible_momentum: float = 0.9
    """In the later tasks."""
    queue: int = 1024
    temperature: float = 0.07
    """Not learned."""
    hidden: float = 0.15
    """Share of the words that are hidden."""
    mask: int = 103
    """The token that stands for a hidden word."""
    elasticity: float = 5000.0
    """Weight of EWC's penalty."""
    crop: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop, as a share of the image."""
    flip: float = 0.5
    """Share of the images that are mirrored."""
    randaugment: float = 5.0
    """Magnitude of ALBEF's RandAugment, 0 to 10; 0: none."""
    words: int = 30
    """Most words of a text, before it is cut into tokens."""


METHODS: dict[str, Callable[[CTPConfig, FusionNetwork], Method]] = {
    "momentum": lambda c, network: Momentum(
        network, c.embedding, c.queue, c.momentum, c.compatible_momentum if c.compatible else None
    ),
    "topology": lambda c, network: Topology(),
    "response": lambda c, network: Response(c.temperature),
    "elastic": lambda c, network: Elastic(network),
}


class CTP(System, nn.Module):
    """The network, the model that it was, and the methods that hold the two together."""

    tasks: Tensor
    scale: Tensor
    network: FusionNetwork
    previous: Teacher | None

    def __init__(self, config: CTPConfig, assets: Assets) -> None:
        super().__init__()
        self.config, self._assets = config, assets
        unknown = [name for name in config.keep if name not in METHODS]
        if unknown:
            raise UserError(f"keep={unknown[0]!r} is unknown; known: {', '.join(METHODS)}")
        self.network = FusionNetwork(config)
        self.keep = nn.ModuleDict({name: METHODS[name](config, self.network) for name in config.keep})
        self.previous = Teacher(network=self.network) if any(m.looks_back for m in self.methods) else None
        self.register_buffer("tasks", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.tensor(1 / config.temperature), persistent=False)

    @classmethod
    def build(cls, config: CTPConfig, assets: Assets) -> CTP:
        return cls(config, assets)

    @property
    def methods(self) -> Iterable[Any]:
        return self.keep.values()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    @property
    def gathers(self) -> tuple[str, ...]:  # type: ignore[override]
        old = bool(self.tasks)
        return ("image", "text", *(name for method in self.methods for name in method.gathers(old)))

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random crop, perhaps mirrored and distorted, one of the captions, and the same with words hidden; without
        ``rng`` the centre and the first."""
        c = self.config
        view = image_view(sample, rng, c.image_size, c.crop)
        text = caption(sample, rng)
        if text is not None:
            view["tokens"] = self.tokenizer.encode(plain_text(text, c.words), c.context)
        if rng is None:
            return view
        if rng.random() < c.flip:
            view["image"] = np.ascontiguousarray(view["image"][..., ::-1])
        if c.randaugment:
            view["image"] = rand_augment(view["image"], rng, c.randaugment)
        view["masked"], view["hidden"] = hide_words(view["tokens"], rng, c.hidden, c.mask, c.vocabulary)
        return view

    def items(self, batch: Batch) -> dict[str, int]:
        """Word losses are means over the hidden words."""
        count = int(hidden(batch).sum())
        return {"words": count, "word_distillation": count}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        own = self.network(batch)
        image, text = own.unit()
        encoded = {"image": image, "text": text, "words": by_text(_words(own, batch), hidden(batch))}
        old = None
        if self.previous is not None and self.tasks:
            with torch.no_grad():
                old = self.previous.get_submodule("network")(
                    batch, words=any(m.recalls for m in self.methods)
                )
        for method in self.methods:
            encoded |= method.encode(own, old, batch)
        return encoded

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Matching and word prediction, and what the methods add."""
        image, text = features["image"], features["text"]
        losses = {
            "contrastive": contrastive(
                image, text, self.scale, features.all("image"), features.all("text"), features.start
            ),
            "words": features["words"],
        }
        for method in self.methods:
            losses |= method.losses(features, self)
        return losses

    def loss_weights(self) -> dict[str, float]:
        return {"elastic": self.config.elasticity}

    def after_step(self, step: int, steps: int) -> None:
        for method in self.methods:
            method.after_step(self)

    def after_stage(self, stage: int, stages: int, batches: Iterable[Batch]) -> None:
        if stage + 1 < stages:
            for method in self.methods:
                method.after_task(self, batches)
            if self.previous is not None:
                self.previous.follow(0.0)
            self.tasks += 1

    def fine_tuning(self, batch: Batch) -> Tensor:
        """The loss of a whole batch without any method."""
        own = self.network(batch)
        image, text = own.unit()
        return contrastive(image, text, self.scale).mean() + _words(own, batch).mean()

    def encode_image(self, batch: Batch) -> Tensor:
        """Unit norm."""
        return self.network.encode_image(batch)

    def encode_text(self, batch: Batch) -> Tensor:
        """Unit norm."""
        return self.network.encode_text(batch)

    def represent_image(self, batch: Batch) -> Tensor:
        return self.network.represent_image(batch)


def _words(own: Reading, batch: Batch) -> Tensor:
    """Cross-entropy of each hidden word."""
    return F.cross_entropy(own.words.float(), batch["tokens"].values[hidden(batch)], reduction="none")


# ------------------------------------------------------------------------------------------------- presets

_PARTS = tuple(f"world:most=1,size=32,part={n}/12," for n in (1, 6, 11, 4))
"""Sixteen concepts each. Every task has shapes of its own, and colours too, but for the last, whose are the first's."""


def _tiny() -> Recipe:
    """Four of twelve parts of the embedded world's concepts, 32-pixel scenes, minutes on two CPU cores."""
    return Recipe(
        system="ctp",
        model=CTPConfig(
            image_tower="resnet",
            image_size=32,
            width=16,
            layers=(1, 1, 1),
            heads=8,
            pool="mean",
            embedding=64,
            text_width=96,
            text_layers=3,
            fusion=2,
            text_heads=2,
            text_dropout=0.0,
            vocabulary=512,
            tokenizer="corpus:511",
            mask=511,
            momentum=0.95,  # a task is some hundred steps here, a thousand there
            queue=64,
            crop=(0.9, 1.0),
            flip=0.0,
            randaugment=0.0,
        ),
        budget="120s",
        batch=32,
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(Stage("task", schedule=Schedule("cosine", warmup=0.1, floor=0.01)),),
        data=Data(sources=tuple(f"{part}captions=1,scenes=3000" for part in _PARTS), stream=True),
        evaluation=Evaluation(
            on=tuple(f"{part}captions=3,scenes=200,split=test" for part in _PARTS), tasks=("retrieval",)
        ),
        checkpoint=Checkpoint(every=1000),
    )


def _p9d() -> Recipe:
    """The authors' configuration: five epochs a task over 1,014,599 pairs, 128 on each of four devices.

    The tasks are given in their order: --data json/train.json#INDUSTRY ..., and what they are judged by as
    evaluation.on, json/test.json#INDUSTRY.
    """
    return Recipe(
        system="ctp",
        model=CTPConfig(),
        budget="5072995samples",
        batch=512,
        optimizer=Optimizer(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
        stages=(Stage("task", schedule=Schedule("cosine", warmup=0.0, floor=0.01)),),
        data=Data(sources=(), workers=8, stream=True),
        evaluation=Evaluation(tasks=("retrieval",)),
    )


# -------------------------------------------------------------------------------------------------- claims

_RECALL, _TRANSFER = "stream/final_recall", "stream/backward_transfer"
_BUDGET = "48000samples"
"""Every task's pairs are seen four times, by when a task alone is learnt (exploration on other scenes)."""
_ON = tuple(f"{part}captions=3,scenes=200,split=test,seed=2" for part in _PARTS)
"""Scenes by which nothing was chosen."""
_KEEP = {"CTP": ("momentum", "topology"), "fine-tuning": (), "LwF": ("response",)}


def _arm(name: str, metric: str) -> Arm:
    return Arm(name, metric, set={"keep": _KEEP[name], "evaluation.on": _ON})


def _recall(name: str, statement: str, control: str) -> Claim:
    return Claim(
        name,
        statement,
        "the best of the compared methods without stored pairs, P9D (abstract)",
        arms=(
            _arm("CTP", _RECALL),
            _arm(control, _RECALL),
            Arm("all tasks at once", _RECALL, set={"keep": (), "data.stream": False, "evaluation.on": _ON}),
        ),
        treatment="CTP",
        control=control,
        budget=_BUDGET,
    )


def _forgetting(name: str, statement: str, control: str) -> Claim:
    return Claim(
        name,
        statement,
        "less forgetting than the compared methods, P9D (abstract)",
        arms=(_arm("CTP", _TRANSFER), _arm(control, _TRANSFER)),
        treatment="CTP",
        control=control,
        budget=_BUDGET,
    )


CLAIMS = (
    _recall(
        "recall_above_fine_tuning",
        "After the last task CTP finds more of all tasks' pairs than a network that is fine-tuned task by task.",
        "fine-tuning",
    ),
    _forgetting(
        "forgets_less_than_fine_tuning",
        "What is found of a task's pairs falls less from its own end to that of the last task than by fine-tuning.",
        "fine-tuning",
    ),
    _recall(
        "recall_above_lwf",
        "After the last task CTP finds more of all tasks' pairs than learning without forgetting does.",
        "LwF",
    ),
    _forgetting(
        "forgets_less_than_lwf",
        "What is found of a task's pairs falls less from its own end to that of the last task than by learning without "
        "forgetting.",
        "LwF",
    ),
)

SYSTEM = Plugin(system=CTP, config=CTPConfig, presets={"tiny": _tiny, "p9d": _p9d}, claims=CLAIMS)
