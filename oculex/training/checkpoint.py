"""Checkpoints: a step's folder is there whole, or not at all. Weights and optimizer state are safetensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from oculex.contracts import UserError
from oculex.training.folder import RunFolder


def save(
    folder: RunFolder,
    step: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    keep: int,
) -> None:
    """Writes checkpoints/step-N with NAME.safetensors for each entry of ``tensors`` and ``state`` as JSON.

    All of it is written into a hidden folder, flushed to disk and then renamed; older checkpoints go only after
    that. Raises UserError when the disk is full or read-only; earlier checkpoints stay as they are.
    """
    final = folder.checkpoints / f"step-{step:09d}"
    part = folder.checkpoints / f".step-{step:09d}.{os.getpid()}"
    try:
        part.mkdir(parents=True)
        for name, entries in tensors.items():
            save_file({k: v.detach().contiguous() for k, v in entries.items()}, part / f"{name}.safetensors")
        sizes = {path.name: path.stat().st_size for path in part.iterdir()}
        (part / "state.json").write_text(
            json.dumps({**state, "step": step, "files": sizes}), encoding="utf-8"
        )
        for path in part.iterdir():
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _flush(folder.checkpoints)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"cannot write checkpoint {final}: {error}; free space or make the folder writable, then `oculex resume "
            f"{folder.path}` goes on from the last one"
        ) from error
    for old in sorted(folder.checkpoints.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def latest(folder: RunFolder) -> Path | None:
    """The newest checkpoint whose files are all there with their sizes; None where there is none."""
    for path in sorted(folder.checkpoints.glob("step-*"), reverse=True):
        if _whole(path):
            return path
    return None


def _whole(path: Path) -> bool:
    try:
        sizes = json.loads((path / "state.json").read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def tensors(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors of NAME.safetensors in a checkpoint; raises UserError for a damaged file."""
    file = path / f"{name}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot read {file}: {error}; delete {path} to go on from the checkpoint before it"
        ) from error


def load_weights(system: torch.nn.Module, weights: Mapping[str, Tensor], origin: Path) -> None:
    """Every parameter and buffer from ``weights``; raises UserError when names or shapes differ."""
    own = system.state_dict()
    wrong = [name for name in own if name not in weights or own[name].shape != weights[name].shape]
    wrong += [name for name in weights if name not in own]
    if wrong:
        raise UserError(
            f"{origin} does not fit the recipe: {len(wrong)} of {len(own)} weights differ in name or shape, first "
            f"{wrong[0]!r}; use the recipe it was trained with"
        )
    system.load_state_dict(dict(weights))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[Any]]:
    """(tensors named "index/key", parameter groups without their parameters)."""
    state = optimizer.state_dict()
    flat = {f"{i}/{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    return {k: v if isinstance(v, Tensor) else torch.tensor(v) for k, v in flat.items()}, state[
        "param_groups"
    ]


def unpack_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor], groups: list[Any]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, _, key = name.partition("/")
        entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
