"""What a reader of published weights gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oculex.nn.joint.dual_encoder import DualEncoderConfig


@dataclass(frozen=True)
class Published:
    """A dual encoder that others trained, read and checked; nothing of it was run."""

    config: DualEncoderConfig
    weights: dict[str, Tensor]
    """Under our names."""
    peer: Callable[[], Any]
    """Makes the other library's model with the same weights, in evaluation mode."""
    system: str = "clip"
    """Of the catalog, that these are weights of."""
