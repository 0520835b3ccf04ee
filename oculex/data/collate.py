"""Views become a batch: images are stacked as they are (uint8), sequences padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import Batch, UserError


@dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths: ``values`` [B, L] padded with 0 on the right, ``lengths`` [B].

    L is the longest length in the batch, never the context length. A view marks a sequence by returning a list
    of ints; everything else (arrays, numbers) has one shape throughout the batch.
    """

    values: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Ragged:
        lengths = torch.tensor([len(s) for s in sequences])
        values = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for row, sequence in zip(values, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence)
        return cls(values, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self) -> list[list[int]]:
        """The sequences without padding."""
        return [row[:n] for row, n in zip(self.values.tolist(), self.lengths.tolist(), strict=True)]

    def __getitem__(self, rows: slice) -> Ragged:
        """The rows, trimmed to their own longest sequence."""
        lengths = self.lengths[rows]
        return Ragged(self.values[rows, : int(lengths.max())], lengths)

    def to(self, device: torch.device, non_blocking: bool = False) -> Ragged:
        return Ragged(
            self.values.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Ragged:
        return Ragged(self.values.pin_memory(), self.lengths.pin_memory())


def collate(views: Sequence[dict[str, Any]]) -> Batch:
    """B views with equal keys -> one batch. Lists of ints become ``Ragged``; strings and dicts stay lists."""
    other = next((view for view in views if view.keys() != views[0].keys()), None)
    if other is not None:
        raise UserError(
            f"samples of one batch have {', '.join(views[0])} and {', '.join(other)}; give data that has the same keys "
            "throughout, such as a source for each kind"
        )
    return {key: _join([view[key] for view in views]) for key in views[0]}


def _join(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, list) and (not first or isinstance(first[0], (int, np.integer))):
        return Ragged.of(values)
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, np.ndarray):
        return torch.from_numpy(np.stack(values))
    if isinstance(first, (bool, int, float, np.number)):
        return torch.tensor(values)
    return values


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Rows [start, stop) of every entry of a batch."""
    return {key: value[start:stop] for key, value in batch.items()}


def size(batch: Batch) -> int:
    """Number of samples in a batch."""
    return len(next(iter(batch.values())))


def to(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``; other entries as they are."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, (Tensor, Ragged)) else value
        for key, value in batch.items()
    }
