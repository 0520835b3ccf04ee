"""Which parts of a picture are hidden: pure functions of a generator.

Every mask has the signature ``mask(size, share, rng, align)``: ``size`` is (rows, columns) in cells, which are
pixels or patches as the caller counts, ``share`` how much is hidden, ``align`` the side of the cells that are
hidden together. It returns bool [rows, columns], True where something is hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

Mask = Bool[np.ndarray, "h w"]


def random_mask(size: tuple[int, int], share: float, rng: np.random.Generator, align: int = 1) -> Mask:
    """Cells each on its own, all but ``int(n * (1 - share))`` of them (MAE, He et al. 2022, section 3)."""
    rows, columns = size[0] // align, size[1] // align
    hidden = np.ones(rows * columns, dtype=bool)
    hidden[rng.permutation(len(hidden))[: int(len(hidden) * (1 - share))]] = False
    return _spread(hidden.reshape(rows, columns), align)


def grouped_mask(
    size: tuple[int, int], share: float, rng: np.random.Generator, align: int = 1, largest: float = 0.3
) -> Mask:
    """Overlapping rectangles until ``share`` is hidden (GMML, Atito et al. 2022, section III).

    A rectangle's sides are drawn from ``align`` up to ``largest`` of the picture's and rounded to multiples of
    ``align``; a rectangle at the border is cut off there.
    """
    hidden = np.zeros(size, dtype=bool)
    most = [max(align + 1, int(side * largest)) for side in size]
    target = share * hidden.size
    past = [
        max(1, side - align) for side in size
    ]  # as in the authors' code, where none begins in the last cell
    reached = [
        min(side, (end - 1) // align * align + round((top - 1) / align) * align)
        for side, end, top in zip(size, past, most, strict=True)
    ]
    if reached[0] * reached[1] < target:  # which there never ends, in small pictures of large cells
        past = [side - align + 1 for side in size]
    while hidden.sum() < target:
        begin = [int(rng.integers(end)) // align * align for end in past]
        drawn = [
            min(int(rng.integers(align, top)), side - first)
            for side, top, first in zip(size, most, begin, strict=True)
        ]
        height, width = (round(side / align) * align for side in drawn)
        hidden[begin[0] : begin[0] + height, begin[1] : begin[1] + width] = True
    return hidden


def block_mask(
    size: tuple[int, int],
    share: float,
    rng: np.random.Generator,
    align: int = 1,
    smallest: int = 16,
    flattest: float = 0.3,
) -> Mask:
    """Blocks of ``smallest`` cells or more and of side ratio ``flattest`` to its inverse until exactly ``share`` is
    hidden (BEiT, Bao et al. 2022, algorithm 1); surplus cells of the last block are shown again.
    """
    rows, columns = size[0] // align, size[1] // align
    hidden, target = np.zeros((rows, columns), dtype=bool), round(share * rows * columns)
    while (missing := target - int(hidden.sum())) > 0:
        area = rng.uniform(min(smallest, missing), max(smallest, missing))
        ratio = math.exp(rng.uniform(math.log(flattest), -math.log(flattest)))
        height = min(rows, max(1, round(math.sqrt(area * ratio))))
        width = min(columns, max(1, round(math.sqrt(area / ratio))))
        top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
        block = np.zeros_like(hidden)
        block[top : top + height, left : left + width] = True
        fresh = np.flatnonzero(block & ~hidden)
        hidden.flat[fresh if len(fresh) <= missing else rng.choice(fresh, missing, replace=False)] = True
    return _spread(hidden, align)


def kept(hidden: Mask) -> np.ndarray:
    """Indices of the cells that are not hidden, in row-major order; int64 [k]."""
    return np.flatnonzero(~hidden)


def _spread(cells: Mask, align: int) -> Bool[np.ndarray, "h*{align} w*{align}"]:
    return cells if align == 1 else cells.repeat(align, 0).repeat(align, 1)


MASKS: dict[str, Callable[..., Mask]] = {
    "random": random_mask,
    "grouped": grouped_mask,
    "block": block_mask,
}
