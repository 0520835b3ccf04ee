"""How exactly two models agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oculex.contracts import UserError

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    name: str
    max_abs_error: float
    n: int


def check(name: str, a: Tensor, b: Tensor) -> Parity:
    """The largest absolute difference of two outputs; UserError above ``TOLERANCE``."""
    if a.shape != b.shape:
        raise UserError(
            f"{name}: shapes differ, {tuple(a.shape)} and {tuple(b.shape)}; nothing was converted"
        )
    error = float((a.float() - b.float()).abs().max())
    if not error <= TOLERANCE:
        raise UserError(
            f"{name}: outputs differ by up to {error:.2e}, more than {TOLERANCE}; do not use the result"
        )
    return Parity(name, error, a.numel())


def images(size: int) -> Tensor:
    """Four seeded images, uint8 [4, 3, size, size]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, size, size), generator=generator, dtype=torch.uint8)


def inputs(size: int, tokenizer: object, context: int) -> tuple[Tensor, list[list[int]]]:
    """``images``, and the ids of real texts of different lengths."""
    texts = ["a red cube", "a photo of a small blue ball next to a cat", "two dogs", "x"]
    return images(size), [tokenizer.encode(text, context) for text in texts]  # type: ignore[attr-defined]
