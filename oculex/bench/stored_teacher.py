"""A distillation step with stored answers and with the teacher beside the student: TinyViT's sizes and teacher.

Student TinyViT-5M, teacher a ViT-L/14 as the paper's (random weights: speed and memory do not depend on them), 224
pixels, 21,841 classes of which 100 are kept. Both sides make the same views of the same pictures and train on them.
Memory is the resident set of a fresh process after one side's steps.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oculex.bench import memory
from oculex.bench.rounds import duel
from oculex.contracts import Batch, Features
from oculex.data.assets import RunAssets
from oculex.data.collate import collate
from oculex.nn.image.towers import image_tower
from oculex.systems.backbones.tinyvit import FastDistillation, TinyViTConfig

CLASSES, BATCH = 21_841, 4
CPU = torch.device("cpu")
MODEL = TinyViTConfig(image_tower="tinyvit_5m", teacher="a ViT-L/14", epochs=1)


class Pictures:
    """A batch of noise."""

    name, classes = "noise", tuple(str(n) for n in range(CLASSES))

    def fingerprint(self) -> str:
        return "noise"

    def __len__(self) -> int:
        return BATCH

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        image = np.random.default_rng(index).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        return {"id": str(index), "image": image}


class Teacher(nn.Module):
    """A ViT-L/14 and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"size": 224, "patch": 14, "width": 1024, "layers": (24,), "heads": 16}
        self.image = image_tower("plain", activation="gelu", **sizes)
        self.head = nn.Linear(1024, CLASSES)

    def classify(self, batch: Batch) -> Tensor:
        return self.head(self.image(batch["image"].float() / 128 - 1))


class Side:
    """A student that trains: ``step()`` makes one update of one batch."""

    def __init__(self, stored: bool, folder: str) -> None:
        os.environ["OCULEX_CACHE"] = folder
        torch.manual_seed(0)
        self.source = Pictures()
        model = TinyViTConfig(**vars(MODEL) | {"stored": stored})
        assets = RunAssets(
            Path(folder), None, self.source.classes, [self.source], lambda spec: Teacher().eval()
        )
        self.student = FastDistillation.build(model, assets).train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), 1e-4, fused=True)

    def step(self) -> float:
        rng = np.random.default_rng(0)
        batch = collate([self.student.view(self.source[n] | {"epoch": 0}, rng) for n in range(BATCH)])
        self.optimizer.zero_grad()
        loss = self.student.losses(Features(self.student.encode(batch)), batch)["distillation"].mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def run(rounds: int = 5) -> dict[str, Any]:
    """Images a second of both, their ratio within alternating rounds, peak memory of each, and sizes of stores."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        ours, peer = Side(True, folder), Side(False, folder)
        losses = ours.step(), peer.step()
        result = duel(ours.step, peer.step, rounds, BATCH, "images/s")
        del ours, peer
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
            peaks = processes.starmap(_peak, [(True, folder), (False, folder)], chunksize=1)
        record = next(Path(folder).glob("teachers/*/epoch-000.bin")).stat().st_size // BATCH
    return result | {
        "losses": losses,
        "peak memory, MB": dict(zip(("ours", "peer"), peaks, strict=True)),
        "bytes per image and epoch": {"stored": record, "all logits in float16": 2 * CLASSES},
        "threads": torch.get_num_threads(),
        "load": load,
    }


def _peak(stored: bool, folder: str) -> float:
    memory.begin(CPU)
    side = Side(stored, folder)
    for _ in range(2):
        side.step()
    return memory.peak(CPU) / 1e6
