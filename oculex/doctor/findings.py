"""What the doctor says of one problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from oculex.evaluation.statistics import Estimate

EXAMPLES = 3
RARE = 0.005
"""A share up to which a blemish is only worth knowing."""


class Rank(IntEnum):
    """How bad a problem is; the report begins with the worst."""

    NOTE = 0
    """Worth knowing."""
    COSTS = 1
    """Time, memory or data is wasted."""
    SPOILS = 2
    """The result would be worse, or not what it seems."""
    STOPS = 3
    """The run would fail."""


@dataclass(frozen=True)
class Finding:
    """One problem, how often it occurs, and what to type against it."""

    name: str
    """Short and stable, for programs."""
    rank: Rank
    says: str
    """A sentence for a person, without the share."""
    remedy: str
    share: Estimate | None = None
    of: str = ""
    """What the share is of: images, captions."""
    examples: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    """Ids of samples that the data is better off without."""


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: (-f.rank, -(f.share.value if f.share else 1.0)))


def some(names: Sequence[str], most: int = EXAMPLES) -> tuple[str, ...]:
    """A few names, cut to what a line holds."""
    return tuple(name if len(name) <= 80 else f"{name[:77]}..." for name in names[:most])


def gigabytes(n: float) -> str:
    return f"{n / 1e9:.3g} GB" if n >= 1e8 else f"{n / 1e6:.3g} MB"
