"""What a robot can do, as numbers: the dimensions of its actions, their bounds, and bins for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from oculex.contracts import Source, UserError


@dataclass(frozen=True)
class ActionSpace:
    """D dimensions in their own units."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    values: tuple[int, ...]
    """Of a discrete dimension how many values it has, 0, 1, ...; 0: it is continuous."""
    ends: str = ""
    """The dimension that ends an episode where it is not at its lowest; empty: none does."""

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.low), len(self.high), len(self.values)}
        if len(lengths) > 1 or not self.names:
            raise UserError(f"an action space of {len(self.names)} names has bounds of other lengths")
        if self.ends and self.ends not in self.names:
            raise UserError(f"an action space has no dimension {self.ends!r} that could end an episode")
        flat = [n for n, low, high in zip(self.names, self.low, self.high, strict=True) if not low < high]
        if flat:
            raise UserError(f"action dimensions without an extent: {', '.join(flat[:5])}; leave them out")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def fitted(cls, actions: np.ndarray, names: Sequence[str] = ()) -> ActionSpace:
        """Bounds of the demonstrations [n, D]: the least and the largest that was done. A dimension that never moves gets
        a bound above its value, so that it has bins at all."""
        low, high = actions.min(0).astype(float), actions.max(0).astype(float)
        high = np.where(high > low, high, low + 1.0)
        given = tuple(names) or tuple(f"action_{n}" for n in range(actions.shape[1]))
        return cls(given, tuple(low.tolist()), tuple(high.tolist()), (0,) * actions.shape[1])


@runtime_checkable
class HasActions(Protocol):
    """A source whose samples have an ``instruction`` and an ``action``."""

    actions: ActionSpace


def action_space(sources: Sequence[Source]) -> ActionSpace | None:
    """The one that all sources with actions share; None where no source has any. Raises UserError for two."""
    found = list(dict.fromkeys(source.actions for source in sources if isinstance(source, HasActions)))
    if len(found) > 1:
        raise UserError(
            "the sources have actions of different robots (names or bounds differ); train on one robot at a time"
        )
    return found[0] if found else None


def binned(actions: np.ndarray, space: ActionSpace, bins: int) -> np.ndarray:
    """int64 [..., D]: the number of each action's bin, as RT-1 has it (Brohan et al. 2022, section 5.1, and its code).

    What lies outside the bounds is cut to them; bin 0 begins at ``low``, and only ``high`` itself is in the last one.
    A discrete dimension has its value.
    """
    # float32, in which the published tokenizer truncates: what lies on the edge of a bin falls as it does there
    low, high = np.array(space.low, np.float32), np.array(space.high, np.float32)
    extent = (np.array(space.high) - np.array(space.low)).astype(np.float32)
    inside = np.clip(np.asarray(actions, np.float32), low, high)
    continuous = ((inside - low) / extent * np.float32(bins - 1)).astype(np.int64)
    discrete = np.rint(inside).astype(np.int64)
    return np.where(np.array(space.values) > 0, discrete, continuous)


def unbinned(numbers: np.ndarray, space: ActionSpace, bins: int) -> np.ndarray:
    """float32 [..., D]: the action of bins, the lower edge of each, as RT-1 reads them."""
    low, high = np.array(space.low), np.array(space.high)
    continuous = numbers / (bins - 1) * (high - low) + low
    return np.where(np.array(space.values) > 0, numbers, continuous).astype(np.float32)
