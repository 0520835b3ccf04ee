"""Sequences laid one after the other into rows, instead of each padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Where each token of padded sequences [B, L] comes to lie in R rows of W.

    What is left of a row goes on with its last sequence's positions: causal attention keeps it from being seen. A
    position that does not follow the one before begins a sequence, by which transformers' models, given ``positions``
    and no attention mask, keep the sequences of a row apart.
    """

    source: Tensor
    """[R, W]: place in the padded array, flattened to [B * L]."""
    positions: Tensor
    """[R, W]: 0, 1, ... in each sequence."""
    real: Tensor
    """[R, W]: False on what is left of a row."""

    @classmethod
    def of(cls, lengths: Sequence[int], length: int, most: int | None = None) -> Rows:
        """Rows of at most ``most`` tokens (None: as the longest sequence) for sequences padded to ``length``."""
        laid = lay(lengths, max(lengths) if most is None else most)
        width = max(sum(lengths[n] for n in row) for row in laid)
        source, positions = torch.zeros(len(laid), width, dtype=torch.long), torch.empty(len(laid), width)
        real = torch.zeros(len(laid), width, dtype=torch.bool)
        positions = positions.long()
        for r, row in enumerate(laid):
            at = 0
            for n in row:
                steps = torch.arange(width - at)
                positions[r, at:] = steps
                source[r, at : at + lengths[n]] = n * length + steps[: lengths[n]]
                at += lengths[n]
            real[r, :at] = True
        return cls(source, positions.clamp_(max=max(lengths) - 1), real)

    def to(self, device: torch.device) -> Rows:
        return Rows(*(part.to(device, non_blocking=True) for part in vars(self).values()))

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, ...] to [R, W, ...]; what is left of a row is padded[0, 0]."""
        return padded.flatten(0, 1)[self.source]

    def follows(self) -> Tensor:
        """[R, W - 1]: which tokens after a row's first follow one of their own sequence."""
        return self.real[:, 1:] & (self.positions[:, 1:] > 0)


def lay(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Sequences of each row, by first fit, the longest first, equal ones in their order: at most 11/9 of the fewest rows
    (Johnson 1973) and a few. Raises ValueError for a sequence longer than a row.
    """
    if max(lengths) > most:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit into rows of {most}")
    rows: list[list[int]] = []
    free: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        row = next((r for r, left in enumerate(free) if left >= lengths[n]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(most)
        rows[row].append(n)
        free[row] -= lengths[n]
    return rows
