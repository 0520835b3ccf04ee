"""A classifier that a student learns from: asked once for all that training will show, or beside the student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import Assets, Batch, Sample, UserError
from oculex.data import collate
from oculex.data.order import keyed
from oculex.data.teacher_store import Plan, TeacherStore, view_key
from oculex.nn.weights import weights_hash


class SparseTeacher:
    """The ``kept`` most likely classes for each view of ``epochs`` epochs; later epochs see the same views again.

    No module, because the teacher is none of the student's weights. ``stored``: the answers come from the store, which
    is made here where it is not complete, and the teacher is let go; otherwise it is asked in every step.
    """

    def __init__(
        self,
        name: str,
        assets: Assets,
        augmented: Callable[[Sample, np.random.Generator], dict[str, Any]],
        seen: str,
        *,
        stored: bool,
        kept: int,
        epochs: int,
        seed: int,
    ) -> None:
        """``augmented`` makes the view that a generator draws; ``seen`` states all else that it depends on.

        Raises UserError where the teacher tells other classes apart than the training data names.
        """
        self.name, self.augmented, self.epochs, self.seed = name, augmented, epochs, seed
        self.classes = len(assets.classes())
        self.kept = min(kept, self.classes)
        self.store: TeacherStore | None = None
        self.beside: Any = None
        teacher, sources = assets.foundation(name), assets.sources()
        if not stored:
            self.beside = teacher
            return
        plan = Plan(
            teacher=weights_hash(teacher),
            data=tuple(source.fingerprint() for source in sources),
            view=seen,
            samples=sum(len(source) for source in sources),
            classes=self.classes,
            epochs=epochs,
            kept=self.kept,
            seed=seed,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        teacher.to(device)
        self.store = TeacherStore.made(
            plan, sources, augmented, lambda batch: self._asked(teacher, collate.to(batch, device))
        )

    def view(self, sample: Sample) -> dict[str, Any]:
        """The view of the sample's epoch that the teacher saw or will see, with its answer where that is stored."""
        epoch = sample.get("epoch", 0) % self.epochs
        if self.store is None:
            return self.augmented(sample, keyed(view_key(self.seed, epoch, sample["id"])))
        answer = self.store.answer(epoch, sample["id"])
        return self.augmented(sample, keyed(answer.key)) | {
            "teacher_classes": answer.classes,
            "teacher_probabilities": answer.probabilities,
        }

    @torch.no_grad()
    def answers(self, batch: Batch) -> dict[str, Tensor]:
        """{"teacher_classes": [B, kept], "teacher_probabilities": [B, kept]}, most likely first."""
        if self.beside is None:
            return {name: batch[name] for name in ("teacher_classes", "teacher_probabilities")}
        logits = self._asked(self.beside.to(batch["image"].device), batch)
        top = logits.float().softmax(dim=1).topk(self.kept, dim=1)
        return {"teacher_classes": top.indices, "teacher_probabilities": top.values}

    def _asked(self, teacher: Any, batch: Batch) -> Tensor:
        logits = teacher.classify(batch)
        if logits.shape[1] != self.classes:
            raise UserError(
                f"teacher={self.name} knows {logits.shape[1]} classes, the training data {self.classes}; name a "
                "teacher of these classes"
            )
        return logits
