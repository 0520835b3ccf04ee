"""A function of a source's samples in their evaluation view: read ahead by threads, shared by ranks, cached in chunks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oculex.contracts import BadSample, Batch, Source, UserError
from oculex.data.collate import collate, to
from oculex.evaluation.cache import Chunk, Item, Store
from oculex.evaluation.reader import Reader, Whole, digest_of
from oculex.nn.weights import weights_hash

CHUNK = 1024
"""Samples per cached chunk: what an interruption can cost."""
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Computing:
    """A system in evaluation mode on a device, and what it was made to compute before.

    Under ``torch.distributed`` every rank computes its share of the chunks and receives all of them.
    """

    def __init__(
        self,
        system: Any,
        device: torch.device | str | None,
        precision: str,
        workers: int | None,
        cache: Path | None,
        limit: int | None,
    ) -> None:
        if precision not in AUTOCAST:
            raise UserError(f"precision {precision!r} is none of {', '.join(AUTOCAST)}")
        self.system, self.precision = system, precision
        self.device = torch.device(device) if device is not None else next(system.parameters()).device
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.cache, self.limit = cache, limit
        self.model = weights_hash(system)

    def chunks(
        self, reader: Reader, what: str, function: Callable[[Batch], Tensor], against: str, batch: int
    ) -> list[Chunk]:
        """``what`` and ``against`` name the function, and what else it depends on, in the cache."""
        indices = self.indices(reader.source)
        store = None
        if self.cache is not None:
            store = Store(Path(self.cache), self._about(reader, indices, what, against))
        rank, ranks = _rank()
        parts = np.array_split(indices, range(CHUNK, len(indices), CHUNK))
        own: dict[int, Chunk] = {}
        for number in range(rank, len(parts), ranks):
            cached = store.get(number) if store else None
            if cached is not None:
                own[number] = cached
        todo = [number for number in range(rank, len(parts), ranks) if number not in own]
        with _evaluating(self.system, self.device, AUTOCAST[self.precision]):
            for number, chunk in self._compute(reader, function, {n: parts[n] for n in todo}, batch):
                own[number] = chunk
                if store:
                    store.put(number, chunk)
        return [chunk for _, chunk in sorted(_gather(own).items())]

    def run(
        self, function: Callable[[Batch], Tensor], batch: Batch, system: nn.Module | None = None
    ) -> np.ndarray:
        """``function`` of one batch, for answers that ask for the next question. ``system``: another one than its own."""
        with _evaluating(system or self.system, self.device, AUTOCAST[self.precision]):
            return function(to(batch, self.device)).float().cpu().numpy()

    def _compute(
        self, reader: Reader, function: Callable[[Batch], Tensor], parts: dict[int, np.ndarray], batch: int
    ) -> Iterator[tuple[int, Chunk]]:
        jobs = [
            (number, list(part[n : n + batch]))
            for number, part in parts.items()
            for n in range(0, len(part), batch)
        ]
        last = {number: n for n, (number, _) in enumerate(jobs)}
        values: list[np.ndarray] = []
        items: list[Item] = []
        bad: list[tuple[str, str]] = []
        for n, answers in enumerate(reader.ahead([job for _, job in jobs], self.workers)):
            good = [answer for answer in answers if not isinstance(answer, BadSample)]
            bad += [(answer.key, answer.reason) for answer in answers if isinstance(answer, BadSample)]
            if good:
                items += [item for item, _ in good]
                inputs = to(collate([view for _, view in good]), self.device)
                values.append(function(inputs).float().cpu().numpy())
            number = jobs[n][0]
            if n == last[number]:
                rows = np.concatenate(values) if values else np.zeros((0, 0), np.float32)
                yield number, Chunk(rows, tuple(items), tuple(bad))
                values, items, bad = [], [], []

    def indices(self, source: Source) -> np.ndarray:
        """All samples, or ``limit`` of them: the same random ones for every model, the fewer among the
        more."""
        if self.limit is None or self.limit >= len(source) or isinstance(source, Whole):
            return np.arange(len(source))
        return np.sort(np.random.default_rng(0).permutation(len(source))[: self.limit])

    def _about(self, reader: Reader, indices: np.ndarray, what: str, against: str) -> dict[str, str]:
        kind = type(self.system)
        return {
            "weights": self.model,
            "system": f"{kind.__module__}.{kind.__qualname__}",
            "config": repr(getattr(self.system, "config", None)),
            "what": what,
            "against": against,
            "source": reader.source.fingerprint(),
            "indices": digest_of(indices),
            "view": reader.sketch(indices),
            "precision": self.precision,
        }


@contextmanager
def _evaluating(system: nn.Module, device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode (a frozen part stays in eval) comes back."""
    modes = {module: module.training for module in system.modules()}
    system.to(device).eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _gather(own: dict[int, Chunk]) -> dict[int, Chunk]:
    ranks = _rank()[1]
    if ranks == 1:
        return own
    parts: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(parts, own)
    return {number: chunk for part in parts for number, chunk in part.items()}
