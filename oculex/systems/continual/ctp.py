"""CTP: Towards Vision-Language Continual Pretraining via Compatible Momentum Contrast and Topology Preservation.

Hongguang Zhu, Yunchao Wei, Xiaodan Liang, Chunjie Zhang, Yao Zhao. ICCV 2023.

Pairs (image, text) arrive task by task, and no earlier pair is seen again. ALBEF's network learns each task by matching
pairs and by predicting hidden words. Two things keep what it knew. A momentum model is led to the mean of the network
and of the model that the last task ended with, so that contrast with its vectors, of this batch and of a queue, is
compatible with both (section 4.2). And the similarities among the samples of a batch, across and within modalities, are
held to those that the previous model saw: how samples lie among one another is kept, where they lie is free (4.3).

The compared methods are the same network with other parts in ``keep``: () is fine-tuning, and joint training without
``data.stream``; ("elastic",) is EWC; ("response",) is LwF; ("momentum",) with ``compatible=False`` is momentum contrast;
``stages.0.replay`` adds experience replay to any.

Departures. The momentum vectors of the whole global batch are contrasted with, not those of one device. RandAugment is
left out of the views. Texts are padded to the longest of the batch, which changes nothing. Recall is measured task by
task among that task's own pairs, so that numbers at different stages have one gallery; the authors' gallery is the union
of the tasks so far. The preset ``tiny`` is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import (
    Assets,
    Batch,
    Checkpoint,
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
from oculex.data.masked_text import hide_words
from oculex.data.views import image_view, text_view
from oculex.nn.continual import Importance, Queue
from oculex.nn.fusion import FusionConfig, FusionNetwork, Reading
from oculex.nn.teacher import Teacher
from oculex.objectives.continual import by_text, momentum_contrast, response, soft_words, topology
from oculex.objectives.contrastive import contrastive


@dataclass(frozen=True)
class CTPConfig(FusionConfig):
    keep: tuple[str, ...] = ("momentum", "topology")
    """What is done against forgetting: entries of ``PARTS``."""
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


class CTP(System, nn.Module):
    """The network, the model that it was, and the parts that hold the two together."""

    tasks: Tensor
    scale: Tensor
    network: FusionNetwork
    previous: Teacher | None

    def __init__(self, config: CTPConfig, assets: Assets) -> None:
        super().__init__()
        self.config, self._assets = config, assets
        unknown = [name for name in config.keep if name not in PARTS]
        if unknown:
            raise UserError(f"keep={unknown[0]!r} is unknown; known: {', '.join(PARTS)}")
        self.network = FusionNetwork(config)
        self.keep = nn.ModuleDict({name: PARTS[name](config, self.network) for name in config.keep})
        self.previous = Teacher(network=self.network) if any(p.looks_back for p in self.parts) else None
        self.register_buffer("tasks", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.tensor(1 / config.temperature), persistent=False)

    @classmethod
    def build(cls, config: CTPConfig, assets: Assets) -> CTP:
        return cls(config, assets)

    @property
    def parts(self) -> Iterable[Any]:
        return self.keep.values()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    @property
    def gathers(self) -> tuple[str, ...]:  # type: ignore[override]
        old = bool(self.tasks)
        return ("image", "text", *(name for part in self.parts for name in part.gathers(old)))

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random crop, perhaps mirrored, one of the captions and the same with words hidden; without ``rng`` the centre
        and the first."""
        c = self.config
        view = image_view(sample, rng, c.image_size, c.crop) | text_view(
            sample, rng, self.tokenizer, c.context
        )
        if rng is None:
            return view
        if rng.random() < c.flip:
            view["image"] = np.ascontiguousarray(view["image"][..., ::-1])
        view["masked"], view["hidden"] = hide_words(view["tokens"], rng, c.hidden, c.mask, c.vocabulary)
        return view

    def items(self, batch: Batch) -> dict[str, int]:
        """Word losses are means over the hidden words."""
        hidden = int(batch["hidden"].values.sum())
        return {"words": hidden, "word_distillation": hidden}

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        own = self.network(batch)
        image, text = own.unit()
        encoded = {"image": image, "text": text, "words": by_text(_words(own, batch), _hidden(batch))}
        old = None
        if self.previous is not None and self.tasks:
            with torch.no_grad():
                old = self.previous(batch)
        for part in self.parts:
            encoded |= part.encode(own, old, batch)
        return encoded

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Section 4.1's matching and word prediction, and what the parts add."""
        image, text = features["image"], features["text"]
        losses = {
            "contrastive": contrastive(
                image, text, self.scale, features.all("image"), features.all("text"), features.start
            ),
            "words": features["words"],
        }
        for part in self.parts:
            losses |= part.losses(features, self)
        return losses

    def loss_weights(self) -> dict[str, float]:
        return {"elastic": self.config.elasticity}

    def after_step(self, step: int, steps: int) -> None:
        for part in self.parts:
            part.after_step(self)

    def after_stage(self, stage: int, stages: int, batches: Iterable[Batch]) -> None:
        if stage + 1 < stages:
            for part in self.parts:
                part.after_stage(self, batches)
            if self.previous is not None:
                self.previous.follow(0.0)
            self.tasks += 1

    def fine_tuning(self, batch: Batch) -> Tensor:
        """The loss of a whole batch without any part."""
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


def _hidden(batch: Batch) -> Tensor:
    return batch["hidden"].values.bool()


def _words(own: Reading, batch: Batch) -> Tensor:
    """Cross-entropy of each hidden word."""
    return F.cross_entropy(own.words.float(), batch["tokens"].values[_hidden(batch)], reduction="none")


# --------------------------------------------------------------------------------------- against forgetting


class Part(nn.Module):
    """What a method adds to the network; ``old`` is what the previous model makes of a batch, None in the first task."""

    looks_back = True
    """Whether it needs the previous model."""

    def __init__(self, config: CTPConfig, network: FusionNetwork) -> None:
        super().__init__()
        self.config = config

    def gathers(self, old: bool) -> tuple[str, ...]:
        return ()

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        return {}

    def losses(self, features: Features, system: CTP) -> dict[str, Tensor]:
        return {}

    def after_step(self, system: CTP) -> None: ...

    def after_stage(self, system: CTP, batches: Iterable[Batch]) -> None:
        """Before the task counts as over and the previous model becomes the present one."""


class Momentum(Part):
    """Compatible momentum contrast (section 4.2): vectors and words of a momentum model, and queues of its vectors."""

    def __init__(self, config: CTPConfig, network: FusionNetwork) -> None:
        super().__init__(config, network)
        self.looks_back = config.compatible
        self.model = Teacher(network=network)
        self.images, self.texts = (Queue(config.queue, config.embedding) for _ in range(2))
        self._seen: tuple[Tensor, Tensor] | None = None

    def gathers(self, old: bool) -> tuple[str, ...]:
        return ("slow_image", "slow_text")

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            slow = self.model(batch)
        image, text = slow.unit()
        words = by_text(soft_words(own.words, slow.words), _hidden(batch))
        return {"slow_image": image, "slow_text": text, "word_distillation": words}

    def losses(self, features: Features, system: CTP) -> dict[str, Tensor]:
        slow = features.all("slow_image").detach(), features.all("slow_text").detach()
        self._seen = slow
        queues = self.images.rows.clone(), self.texts.rows.clone()
        return {
            "momentum_contrast": momentum_contrast(
                features["image"], features["text"], system.scale, *slow, *queues, features.start
            ),
            "word_distillation": features["word_distillation"],
        }

    def after_step(self, system: CTP) -> None:
        c, compatible = self.config, self.config.compatible and bool(system.tasks)
        for queue, vectors in zip((self.images, self.texts), self._seen or (), strict=False):
            queue.push(vectors)
        self._seen = None
        self.model.follow(
            c.compatible_momentum if compatible else c.momentum, system.previous if compatible else None
        )

    def after_stage(self, system: CTP, batches: Iterable[Batch]) -> None:
        if self.config.compatible:
            self.model.follow(0.0)


class Topology(Part):
    """Topology preservation (section 4.3): similarities across modalities, and within each."""

    def gathers(self, old: bool) -> tuple[str, ...]:
        return ("old_image", "old_text") if old else ()

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        return {} if old is None else dict(zip(self.gathers(True), old.unit(), strict=True))

    def losses(self, features: Features, system: CTP) -> dict[str, Tensor]:
        if not system.tasks:
            return {}

        def kept(rows: str, columns: str) -> Tensor:
            return topology(
                features[rows],
                features.all(columns),
                features[f"old_{rows}"],
                features.all(f"old_{columns}"),
                system.scale,
                features.start if rows == columns else None,
            )

        across = (kept("image", "text") + kept("text", "image")) / 2
        within = (kept("image", "image") + kept("text", "text")) / 2
        return {"topology": across + within}


class Response(Part):
    """Learning without forgetting: embeddings and words as the previous model answers."""

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        if old is None:
            return {}
        scale = torch.tensor(1 / self.config.temperature, device=own.image.device)
        kept = (response(own.image, old.image, scale) + response(own.text, old.text, scale)) / 2
        return {
            "response": kept,
            "word_distillation": by_text(soft_words(own.words, old.words), _hidden(batch)),
        }

    def losses(self, features: Features, system: CTP) -> dict[str, Tensor]:
        return {name: features[name] for name in ("response", "word_distillation") if name in features}


class Elastic(Part):
    """Elastic weight consolidation: weights that mattered are held where they were."""

    def __init__(self, config: CTPConfig, network: FusionNetwork) -> None:
        super().__init__(config, network)
        self.importance = Importance(network)

    def losses(self, features: Features, system: CTP) -> dict[str, Tensor]:
        if not system.tasks or system.previous is None:
            return {}
        return {"elastic": self.importance.distance(system.network, system.previous)}

    def after_stage(self, system: CTP, batches: Iterable[Batch]) -> None:
        self.importance.measure(system.network, batches, system.fine_tuning, int(system.tasks))


PARTS: dict[str, type[Part]] = {
    "momentum": Momentum,
    "topology": Topology,
    "response": Response,
    "elastic": Elastic,
}

# ------------------------------------------------------------------------------------------------- presets

TASKS = 9


def _tiny() -> Recipe:
    """Nine parts of the embedded world's concepts, minutes on two CPU cores."""
    return Recipe(
        system="ctp",
        model=CTPConfig(
            image_size=48,
            patch=8,
            width=128,
            layers=(3,),
            heads=2,
            embedding=64,
            text_layers=4,
            fusion=2,
            text_heads=2,
            text_dropout=0.0,
            vocabulary=1024,
            tokenizer="corpus:1023",
            mask=1023,
            queue=256,
            crop=(0.7, 1.0),
            flip=0.0,
        ),
        budget="120s",
        batch=64,
        optimizer=Optimizer(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, clip_norm=1.0),
        stages=(Stage("task", schedule=Schedule("cosine", warmup=0.1, floor=0.01)),),
        data=Data(
            sources=tuple(
                f"world:most=1,scenes=400,captions=1,part={n}/{TASKS}" for n in range(1, TASKS + 1)
            ),
            stream=True,
        ),
        evaluation=Evaluation(tasks=("retrieval", "zeroshot")),
        checkpoint=Checkpoint(every=200),
    )


def _p9d() -> Recipe:
    """The authors' configuration: five epochs a task over a million pairs, 128 on each of four devices."""
    return Recipe(
        system="ctp",
        model=CTPConfig(),
        budget="5e6samples",
        batch=512,
        optimizer=Optimizer(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
        stages=(Stage("task", schedule=Schedule("cosine", warmup=0.0, floor=0.01)),),
        data=Data(sources=(), workers=8, stream=True),
        evaluation=Evaluation(tasks=("retrieval",)),
    )


SYSTEM = Plugin(system=CTP, config=CTPConfig, presets={"tiny": _tiny, "p9d": _p9d})
