"""How fast each stage of training is, measured alone on the real data and recipe, and which of them binds.

Rates are samples per second. Every stage but the update works on one core; the update has them all.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from oculex.contracts import Batch, Recipe, Sample, Tokenizer
from oculex.data import collate
from oculex.data.assets import RunAssets
from oculex.data.decode import Encoded
from oculex.data.loader import batches
from oculex.data.order import generator
from oculex.evaluation.statistics import Estimate, over_seeds
from oculex.training import optimizers, ranks
from oculex.training.plan import Pool
from oculex.training.recompute import checkpoint_activations
from oculex.training.step import Trainee, backward

CHUNK = 16
"""Samples timed together."""
LOADED = 64
"""Samples in a batch when the loader is measured; its rate hardly depends on it."""
AHEAD = 4
"""Batches that a worker makes ahead."""
LOADER_STAGES = ("read", "decode", "augment", "tokenise", "collate")


class WatchedTokenizer:
    """Passes everything on, and keeps the time that encoding takes and the context it is asked for."""

    def __init__(self, inner: Tokenizer) -> None:
        self.inner, self.size, self.end = inner, inner.size, inner.end
        self.seconds, self.context = 0.0, 0

    def encode(self, text: str, context: int) -> list[int]:
        begun = time.perf_counter()
        ids = self.inner.encode(text, context)
        self.seconds += time.perf_counter() - begun
        self.context = context
        return ids

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is unpickled there is none yet
            raise AttributeError(name)
        return getattr(self.inner, name)


class WatchedAssets(RunAssets):
    """A run's assets whose tokenizers are watched."""

    watched: WatchedTokenizer | None = None

    def tokenizer(self, spec: str) -> Any:
        if self.watched is None:
            self.watched = WatchedTokenizer(super().tokenizer(spec))
        return self.watched


@dataclass(frozen=True)
class Rates:
    """Samples per second of each stage that there is, and what follows from them."""

    stages: dict[str, Estimate]
    cores: int
    workers: int
    gpu: bool
    rows: int
    """Of the update that was timed; the recipe's, or fewer where those would not fit or take too long."""

    def worker(self) -> float:
        """What one worker process makes."""
        return 1 / sum(1 / self.stages[name].value for name in LOADER_STAGES if name in self.stages)

    def slowest(self) -> str:
        """The loader's stage that takes most of its time."""
        return min((n for n in LOADER_STAGES if n in self.stages), key=lambda n: self.stages[n].value)

    def needed(self) -> int | None:
        """Workers that keep up with the update; None where there was no update."""
        return (
            math.ceil(1.05 * self.stages["update"].value / self.worker()) if "update" in self.stages else None
        )

    def data_share(self) -> float:
        """Share of the time of training that goes to making batches.

        Beside a GPU, the time it waits for them. On a CPU workers and update share the cores: what is spent on one is
        taken from the other, however many workers there are.
        """
        update, worker = self.stages["update"].value, self.worker()
        if not self.gpu:
            return (1 / worker / self.cores) / (1 / worker / self.cores + 1 / update)
        made = self.stages["loader"].value if "loader" in self.stages else worker * max(1, self.workers)
        return max(0.0, 1 - made / update)


def measure(
    recipe: Recipe, pool: Pool, samples: Sequence[Sample], read: Sequence[float], system: Any,
    assets: WatchedAssets, fits: Callable[[int], bool], seconds: float,
) -> Rates:  # fmt: skip
    """``samples`` are in memory; ``read`` are the seconds that reading each sample took. ``fits(rows)`` says whether
    the update of a micro-batch of ``rows`` fits into memory."""
    threads = torch.get_num_threads()
    stages = {"read": _rate([np.mean(part) for part in _chunks(read)], len(read))} if len(read) else {}
    torch.set_num_threads(1)
    views: list[dict[str, Any]] = []
    try:
        stages |= _views(samples, system, assets, seconds / 6, views)
        stages["collate"] = _timed(lambda: collate.collate(views[:LOADED]), len(views[:LOADED]), seconds / 20)
    finally:
        torch.set_num_threads(threads)
    fabric = ranks.launch(recipe)
    gpu = fabric.device.type != "cpu"
    if gpu:
        batch = collate.collate(views[:LOADED])
        stages["transfer"] = _timed(lambda: _moved(batch, fabric.device), len(views[:LOADED]), seconds / 20)
    loaded = _loader(replace(recipe, batch=LOADED), pool, system, seconds / 4)
    stages |= {"loader": loaded} if loaded else {}
    rows = 0
    if fits(1):
        rows, stages["update"] = _updates(recipe, fabric, system, views, fits, seconds / 3)
    return Rates(stages, len(os.sched_getaffinity(0)), recipe.data.workers, gpu, rows)


def views_of(samples: Sequence[Sample], system: Any) -> Iterator[dict[str, Any]]:
    """Training views, each with its own randomness."""
    for index, sample in enumerate(samples):
        yield system.view({**sample, "epoch": 0}, generator(0, index))


def _views(
    samples: Sequence[Sample], system: Any, assets: WatchedAssets, seconds: float, views: list[dict[str, Any]]
) -> dict[str, Estimate]:
    """Decoding alone; the view less decoding and tokenising is augmentation. Fills ``views``."""
    views += views_of(samples[:CHUNK], system)
    size = view_size(views[0]) or 1
    stop = time.perf_counter() + seconds
    spent: list[tuple[float, float, float]] = []
    while time.perf_counter() < stop and (len(spent) < 3 or len(spent) * CHUNK < len(samples)):
        some = [samples[(len(spent) * CHUNK + i) % len(samples)] for i in range(CHUNK)]
        begun = time.perf_counter()
        for sample in some:
            if isinstance(sample.get("image"), bytes):
                encoded = Encoded(sample["image"], sample["id"])
                encoded.decoded(min(encoded.size) / size)
        decoded = time.perf_counter() - begun
        before = assets.watched.seconds if assets.watched else 0.0
        begun = time.perf_counter()
        made = list(views_of(some, system))
        whole = time.perf_counter() - begun
        text = assets.watched.seconds - before if assets.watched else 0.0
        spent.append((decoded, max(whole - decoded - text, 1e-9), text))
        views += made if len(views) < len(samples) else []
    names = ("decode", "augment", "tokenise")
    columns = dict(zip(names, np.array(spent).T / CHUNK, strict=True))
    encoded_images = any(isinstance(sample.get("image"), bytes) for sample in samples)
    kept = {"decode": encoded_images, "augment": True, "tokenise": assets.watched is not None}
    return {name: _rate(values, len(spent) * CHUNK) for name, values in columns.items() if kept[name]}


def view_size(view: dict[str, Any]) -> int | None:
    """Side in pixels of the largest picture of a view."""
    sides = [
        v.shape[-1]
        for v in view.values()
        if isinstance(v, np.ndarray) and v.dtype == np.uint8 and v.ndim >= 3
    ]
    return max(sides, default=None)


def _loader(recipe: Recipe, pool: Pool, system: Any, seconds: float) -> Estimate | None:
    """Batches as the run gets them, after the workers have begun; what they made ahead is not counted.

    None where the first batches alone took longer than there is time.
    """
    stop, times = 0.0, []
    steps = pool.steps(system.view, recipe, 0, 1)
    for index, _ in enumerate(batches(steps, 0, 1 << 20, recipe.data.workers)):
        now = time.perf_counter()
        stop = stop or now + seconds
        if index >= AHEAD * recipe.data.workers:
            times.append(now)
        if (now > stop and len(times) > 3) or now > stop + seconds:
            break
    if len(times) < 3:
        return None
    gaps = np.diff(times) / recipe.batch
    return _rate([part.mean() for part in np.array_split(gaps, min(8, len(gaps)))], len(gaps) * recipe.batch)


def _updates(
    recipe: Recipe, fabric: Fabric, system: Any, views: Sequence[dict[str, Any]], fits: Callable[[int], bool],
    seconds: float,
) -> tuple[int, Estimate]:  # fmt: skip
    """Whole updates (forward, backward, optimizer) of micro-batches that grow up to the recipe's, while time lasts."""
    if recipe.activation_checkpointing:
        checkpoint_activations(system)
    optimizer = optimizers.build(system, recipe.optimizer, recipe.stages[0])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    model, optimizer = fabric.setup(Trainee(system.train()), optimizer)
    pieces, micro = min(recipe.accumulate, 2), recipe.batch // recipe.accumulate

    def update(batch: Batch) -> float:
        begun = time.perf_counter()
        optimizer.zero_grad()
        system.before_step(0, 1)
        backward(fabric, model, batch, accumulate=pieces, seed=0, step=0)
        if recipe.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(system.parameters(), recipe.optimizer.clip_norm)
        optimizer.step()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    stop, rows = time.perf_counter() + seconds, min(8, micro)
    times: list[float] = []
    while True:
        batch = collate.to(
            collate.collate([views[i % len(views)] for i in range(rows * pieces)]), fabric.device
        )
        update(batch)
        times = [update(batch)]
        larger = min(2 * rows, micro)
        if rows == micro or not fits(larger) or time.perf_counter() + 5 * times[0] > stop:
            break
        rows = larger
    while len(times) < 3 or (time.perf_counter() + times[-1] < stop and len(times) < 20):
        times.append(update(batch))
    return rows * pieces, _rate([t / (rows * pieces) for t in times], len(times) * rows * pieces)


def _timed(call: Callable[[], Any], samples: int, seconds: float) -> Estimate:
    call()
    stop = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 200):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) / samples)
    return _rate(times, len(times) * samples)


def _moved(batch: Batch, device: torch.device) -> None:
    collate.to(batch, device)
    torch.cuda.synchronize()


def _chunks(values: Sequence[float]) -> list[np.ndarray]:
    return np.array_split(np.asarray(values), max(1, min(20, len(values) // CHUNK)))


def _rate(seconds: Sequence[float] | np.ndarray, n: int) -> Estimate:
    """Samples a second of seconds per sample, and Student's interval of their logarithm; ``n`` samples."""
    logs = over_seeds(np.log(np.maximum(seconds, 1e-9)).tolist())
    return Estimate(math.exp(-logs.value), math.exp(-logs.high), math.exp(min(-logs.low, 700)), n)
