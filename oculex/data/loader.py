"""Batches for training: a step's number is all it takes to make its batch, on any rank, in any process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from oculex.contracts import BadSample, Batch, Sample, Source, UserError
from oculex.data.collate import collate, to
from oculex.data.order import Order, generator

View = Callable[[Sample, np.random.Generator | None], dict[str, Any]]


@dataclass(frozen=True)
class Loaded:
    """One rank's part of a step's batch, with the names of its samples and of those that could not be read."""

    step: int
    batch: Batch
    ids: list[str]
    skipped: list[BadSample] = field(default_factory=list)


class Steps(Dataset):
    """``steps[s]`` is this rank's part of the global batch of step s.

    The global batch of step s holds positions s * batch .. (s + 1) * batch of the order, and rank r of R the r-th
    of R equal stretches, so the union over ranks is the same for every R. A sample that cannot be read is left
    out and named; nothing takes its place.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        order: Order,
        view: View,
        batch: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if batch % ranks:
            raise UserError(f"batch={batch} does not divide over {ranks} ranks; take a multiple")
        self.sources, self.order, self.view, self.seed = sources, order, view, seed
        self.batch, self.local, self.first = batch, batch // ranks, rank * (batch // ranks)

    def epoch(self) -> int:
        """Whole batches in as many samples as there are; at least one."""
        return max(1, self.order.epoch_length() // self.batch)

    def __getitem__(self, step: int) -> Loaded | UserError:
        start = step * self.batch + self.first
        views, ids, skipped = [], [], []
        for position in range(start, start + self.local):
            source, index, epoch = self.order.drawn(position)
            try:
                sample = {**self.sources[source][index], "epoch": epoch}
                views.append(self.view(sample, generator(self.seed, position)))
                ids.append(sample["id"])
            except BadSample as bad:
                skipped.append(bad)
            except (
                UserError
            ) as error:  # handed over, because a worker's exception would arrive as a traceback
                return error
        if not views:
            return UserError(f"no sample of step {step} could be used; first: {skipped[0]}")
        return Loaded(step, collate(views), ids, skipped)


def batches(steps: Steps, start: int, stop: int, workers: int) -> Iterator[Loaded]:
    """The batches of steps start..stop, made ahead of time by worker processes.

    Raises UserError as the data met it.
    """
    loader: DataLoader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_Follower(os.getpid()),
    )
    for loaded in loader:
        if isinstance(loaded, UserError):
            raise loaded
        yield loaded


@dataclass(frozen=True)
class Epoch:
    """The batches of steps start..stop on a device, the same each time they are gone through."""

    steps: Steps
    start: int
    stop: int
    workers: int
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        for loaded in batches(self.steps, self.start, self.stop, self.workers):
            yield to(loaded.batch, self.device)


class _Follower:
    """Ends a worker when the process that trains is gone, killed without a word: torch's own watch looks at the worker's
    parent, which under the forkserver (the default from Python 3.14 on) is another process and stays."""

    EVERY = 2.0
    """Seconds between looks."""

    def __init__(self, trainer: int) -> None:
        self.trainer = trainer

    def __call__(self, _: int) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(self.EVERY)
            try:
                os.kill(self.trainer, 0)
            except ProcessLookupError:
                os._exit(1)
            except PermissionError:
                pass  # it is there
