"""BatchNorm's running statistics under micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Statistics:
    """One update moves running statistics once: by the mean of what its micro-batches, on all ranks, would move them.

    A micro-batch that is encoded a second time moves nothing. So the statistics, like the gradients, do not depend on
    how the micro-batches lie on ranks, and are equal on all ranks. Where there is a single micro-batch they move as
    torch moves them.
    """

    def __init__(self, system: nn.Module, alone: bool) -> None:
        norms = [m for m in system.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self._alone = alone or not norms
        if self._alone:
            return
        self._running: list[Tensor] = [b for m in norms for b in (m.running_mean, m.running_var)]  # type: ignore[misc]
        self._tracked: list[Tensor] = [m.num_batches_tracked for m in norms]  # type: ignore[misc]
        self._before = [b.clone() for b in self._running]
        self._tracked_before = [b.clone() for b in self._tracked]
        self._moved = [torch.zeros_like(b) for b in self._running]
        self._seen = torch.zeros(len(norms), device=self._running[0].device)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A micro-batch that is seen for the first time."""
        yield
        if not self._alone:
            for moved, now, before in zip(self._moved, self._running, self._before, strict=True):
                moved += now - before
            pairs = zip(self._tracked, self._tracked_before, strict=True)
            self._seen += torch.stack([now != before for now, before in pairs])
            self._restore()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A micro-batch that is seen again."""
        yield
        if not self._alone:
            self._restore()

    @torch.no_grad()
    def settle(self) -> None:
        """The update's move, after all its micro-batches."""
        if self._alone:
            return
        if dist.is_available() and dist.is_initialized():
            sums = torch.cat([self._seen, *(moved.flatten() for moved in self._moved)])
            dist.all_reduce(sums)
            self._seen, *parts = sums.split([len(self._seen), *(moved.numel() for moved in self._moved)])
            self._moved = [part.view_as(moved) for part, moved in zip(parts, self._moved, strict=True)]
        for n, tracked in enumerate(self._tracked):
            tracked += self._seen[n] > 0
            for running, moved in list(zip(self._running, self._moved, strict=True))[2 * n : 2 * n + 2]:
                running += moved / self._seen[n].clamp(min=1)

    @torch.no_grad()
    def _restore(self) -> None:
        for now, before in zip(
            (*self._running, *self._tracked), (*self._before, *self._tracked_before), strict=True
        ):
            now.copy_(before)
