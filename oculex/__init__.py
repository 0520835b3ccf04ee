"""oculex: one bench for vision-language pretraining."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["evaluate", "generate", "load", "train"]

if TYPE_CHECKING:
    from oculex.inference import generate
    from oculex.runs import evaluate, load, train

_HOME = {"evaluate": "runs", "generate": "inference", "load": "runs", "train": "runs"}


def __getattr__(name: str) -> Any:
    """Public functions are imported on first use, so that ``import oculex`` stays instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'oculex' has no attribute {name!r}")
    return getattr(import_module(f"oculex.{_HOME[name]}"), name)
