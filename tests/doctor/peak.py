"""Measured peaks of real updates, for the estimate to be held against: ``python -m tests.doctor.peak`` prints the table.

A CPU has no counter of a process's largest need, so two things are measured. *Allocated* is what torch's CPU allocator
handed out at most, from the profiler's record of every allocation: the counterpart of
``torch.cuda.max_memory_allocated``, with the scratch that kernels take from it; and the images of the batch. *Resident*
is the growth of the process over what it held with libraries loaded and warm, sampled every half millisecond, in a
process of its own, with the C library told to give freed blocks back at once (MALLOC_MMAP_THRESHOLD_; by default it
keeps them, and a process may hold up to half as much again, depending on the order of its allocations).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oculex import catalog
from oculex.contracts import Recipe
from oculex.data import collate
from oculex.data.assets import RunAssets
from oculex.training import memory, optimizers, ranks, recipes
from oculex.training.recompute import checkpoint_activations
from oculex.training.step import Trainee, backward

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "vit, batch 64": {"batch": 64},
    "vit, batch 256": {"batch": 256},
    "vit, batch 128, fp32": {"batch": 128, "precision": "32-true"},
    "vit, batch 256, 4 micro-batches": {"batch": 256, "accumulate": 4},
    "vit, batch 256, recomputed": {"batch": 256, "activation_checkpointing": True},
    "vit, batch 64, clip's vocabulary, averaged": {"batch": 64, "vocabulary": 49_408, "ema": 0.99},
    "resnet, batch 64": {
        "batch": 64, "image_tower": "resnet", "layers": [1, 1, 1], "width": 32, "heads": 8,
    },
    "resnet, batch 64, fp32, 2 micro-batches": {
        "batch": 64, "image_tower": "resnet", "layers": [1, 1, 1], "width": 32, "heads": 8, "precision": "32-true",
        "accumulate": 2,
    },
    "clip, batch 4096 of tiny towers: the pairs": {
        "batch": 4096, "accumulate": 64, "width": 48, "heads": 1, "layers": [1], "text_width": 32, "text_heads": 1,
        "text_layers": 1,
    },
}  # fmt: skip


def configured(changes: dict[str, Any]) -> tuple[Recipe, RunAssets, list[dict[str, Any]]]:
    """A recipe of CLIP's, and views of noise with texts of different lengths."""
    recipe = recipes.change(recipes.preset(catalog.load("clip"), "clip", "tiny_vit"), changes)
    assets = RunAssets(Path(tempfile.mkdtemp()), lambda: ["a red ball on a blue cube"])
    rng, c = np.random.default_rng(0), recipe.model
    views = [
        {
            "image": rng.integers(0, 256, (3, c.image_size, c.image_size), dtype=np.uint8),
            "tokens": [1] * (8 + i % 13),
        }
        for i in range(32)
    ]
    return recipe, assets, views


def train(recipe: Recipe, assets: RunAssets, views: list[dict[str, Any]], updates: int = 2) -> int:
    """Two updates as the loop makes them, from building the system on; bytes of the batch's images.

    These numpy allocates, of which torch's allocator does not know.
    """
    fabric = ranks.launch(recipe)
    system: Any = catalog.load(recipe.system).system.build(recipe.model, assets)
    average = [p.detach().clone() for p in system.parameters()] if recipe.ema else []
    if recipe.activation_checkpointing:
        checkpoint_activations(system)
    optimizer = optimizers.build(system, recipe.optimizer, recipe.stages[0])
    model, optimizer = fabric.setup(Trainee(system.train()), optimizer)
    batch = collate.collate([views[i % len(views)] for i in range(recipe.batch)])
    for step in range(updates):
        optimizer.zero_grad()
        backward(fabric, model, batch, accumulate=recipe.accumulate, seed=0, step=step)
        if recipe.optimizer.clip_norm is not None:
            fabric.clip_gradients(model, optimizer, max_norm=recipe.optimizer.clip_norm)
        optimizer.step()
    del average
    return batch["image"].nbytes


def allocated(changes: dict[str, Any]) -> int:
    """Bytes that torch's allocator had handed out at most, and those of the images."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        images = train(*configured(changes))
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return images + int(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max())


def resident(changes: dict[str, Any]) -> int:
    """Bytes that this process grew by; ask for it in a process of its own."""

    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    small = {"width": 64, "heads": 2, "layers": [1], "text_width": 64, "text_heads": 1, "text_layers": 1}
    warm = {**changes, "batch": 4, "accumulate": min(2, changes.get("accumulate", 1)), "vocabulary": 2048}
    train(*configured(warm if "image_tower" in changes else warm | small))
    peak, base, over = 0, held(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.is_set():
            peak = max(peak, held())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    train(*configured(changes))
    over.set()
    watcher.join()
    return peak - base


def resident_alone(changes: dict[str, Any]) -> int:
    """``resident`` in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.doctor.peak", json.dumps(changes)],
        capture_output=True, text=True, check=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(resident(json.loads(sys.argv[1])))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'':<46}{'estimate':>10}{'allocated':>10}{'ratio':>7}{'resident':>10}{'ratio':>7}   MB")
    for name, changes in CONFIGURATIONS.items():
        estimate, real, held = (
            memory.estimate(*configured(changes)).peak,
            allocated(changes),
            resident_alone(changes),
        )
        print(
            f"{name:<46}{estimate / 1e6:>10.1f}{real / 1e6:>10.1f}{estimate / real:>7.3f}"
            f"{held / 1e6:>10.1f}{estimate / held:>7.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
