"""What methods do against forgetting while a ``FusionNetwork`` learns task after task.

Each is a module that a system holds beside its network; what it remembers lies in buffers, so that a run resumes from
its state dict. They are told of the network and of the model that the last task ended with when they are asked, because
in training the network may be a copy that an engine has cut up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from oculex.contracts import Batch, Features
from oculex.nn.joint.fusion import FusionNetwork, Reading
from oculex.nn.memory.continual import Importance, Queue
from oculex.nn.memory.teacher import Teacher
from oculex.objectives.continual import by_text, momentum_contrast, response, soft_words, topology


@runtime_checkable
class Learner(Protocol):
    """Who learns the tasks."""

    network: FusionNetwork
    previous: Teacher | None
    """Its ``network`` is the one that the last task ended with."""
    tasks: Tensor
    """How many are over."""
    scale: Tensor
    """Inverse temperature of all similarities."""

    def fine_tuning(self, batch: Batch) -> Tensor:
        """The loss of a whole batch without any method."""
        ...


class Method(nn.Module):
    """What a method adds; ``old`` is what the previous model makes of a batch, None in the first task."""

    looks_back = True
    """Whether it needs the previous model."""
    recalls = False
    """Whether it needs the words that the previous model predicts."""

    def gathers(self, old: bool) -> tuple[str, ...]:
        """Names that must be seen for the global batch; ``old``: whether there is a previous model."""
        return ()

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        return {}

    def losses(self, features: Features, learner: Learner) -> dict[str, Tensor]:
        return {}

    def after_step(self, learner: Learner) -> None: ...

    def after_task(self, learner: Learner, batches: Iterable[Batch]) -> None:
        """Before the task counts as over and the previous model becomes the present one."""


def hidden(batch: Batch) -> Tensor:
    """bool [B, L]: where words are to be predicted."""
    return batch["hidden"].values.bool()


class Momentum(Method):
    """Momentum contrast across modalities (MoCo, He et al. 2020, section 3; ALBEF, Li et al. 2021, section 3.2), with the
    momentum model's words as soft targets.

    ``compatible``: the momentum of the tasks after the first, in which the momentum model begins as a copy of the network
    and is led to the mean of the network and the previous model (CTP, Zhu et al. 2023); None: it follows the
    network alone, by ``momentum``, in all of them.
    """

    def __init__(
        self, network: FusionNetwork, width: int, queue: int, momentum: float, compatible: float | None
    ) -> None:
        super().__init__()
        self.momentum, self.compatible = momentum, compatible
        self.looks_back = compatible is not None
        self.model = Teacher(network=network)
        self.images, self.texts = (Queue(queue, width) for _ in range(2))
        self._seen: tuple[Tensor, Tensor] | None = None

    def gathers(self, old: bool) -> tuple[str, ...]:
        return ("slow_image", "slow_text")

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            slow = self.model(batch)
        image, text = slow.unit()
        words = by_text(soft_words(own.words, slow.words), hidden(batch))
        return {"slow_image": image, "slow_text": text, "word_distillation": words}

    def losses(self, features: Features, learner: Learner) -> dict[str, Tensor]:
        slow = features.all("slow_image").detach(), features.all("slow_text").detach()
        self._seen = slow
        queues = self.images.rows.clone(), self.texts.rows.clone()
        return {
            "momentum_contrast": momentum_contrast(
                features["image"], features["text"], learner.scale, *slow, *queues, features.start
            ),
            "word_distillation": features["word_distillation"],
        }

    def after_step(self, learner: Learner) -> None:
        for queue, vectors in zip((self.images, self.texts), self._seen or (), strict=False):
            queue.push(vectors)
        self._seen = None
        if self.compatible is not None and learner.tasks:
            self.model.follow(self.compatible, learner.previous)
        else:
            self.model.follow(self.momentum)

    def after_task(self, learner: Learner, batches: Iterable[Batch]) -> None:
        if self.compatible is not None:
            self.model.follow(0.0)


class Topology(Method):
    """Topology preservation (CTP, Zhu et al. 2023): similarities across modalities and within each stay as the previous
    model saw them."""

    def gathers(self, old: bool) -> tuple[str, ...]:
        return ("old_image", "old_text") if old else ()

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        return {} if old is None else dict(zip(self.gathers(True), old.unit(), strict=True))

    def losses(self, features: Features, learner: Learner) -> dict[str, Tensor]:
        if not learner.tasks:
            return {}

        def kept(rows: str, columns: str) -> Tensor:
            return topology(
                features[rows],
                features.all(columns),
                features[f"old_{rows}"],
                features.all(f"old_{columns}"),
                learner.scale,
                features.start if rows == columns else None,
            )

        across = (kept("image", "text") + kept("text", "image")) / 2
        within = (kept("image", "image") + kept("text", "text")) / 2
        return {"topology": across + within}


class Response(Method):
    """Learning without forgetting (Li and Hoiem 2017): embeddings and words as the previous model answers."""

    recalls = True
    scale: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1 / temperature), persistent=False)

    def encode(self, own: Reading, old: Reading | None, batch: Batch) -> dict[str, Tensor]:
        if old is None:
            return {}
        kept = (response(own.image, old.image, self.scale) + response(own.text, old.text, self.scale)) / 2
        return {
            "response": kept,
            "word_distillation": by_text(soft_words(own.words, old.words), hidden(batch)),
        }

    def losses(self, features: Features, learner: Learner) -> dict[str, Tensor]:
        return {name: features[name] for name in ("response", "word_distillation") if name in features}


class Elastic(Method):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): weights that mattered are held where they were."""

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.importance = Importance(network)

    def losses(self, features: Features, learner: Learner) -> dict[str, Tensor]:
        if not learner.tasks or learner.previous is None:
            return {}
        return {"elastic": self.importance.distance(learner.network, learner.previous)}

    def after_task(self, learner: Learner, batches: Iterable[Batch]) -> None:
        self.importance.measure(learner.network, batches, learner.fine_tuning, int(learner.tasks))
