"""Checkpoints: a step's folder is there whole, or not at all. Weights and optimizer state are safetensors."""

from __future__ import annotations

import json
import os
import re
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
from oculex.training.ranks import laid_like, whole


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
        shutil.rmtree(
            part, ignore_errors=True
        )  # of a killed process with the same number, as containers have
        part.mkdir(parents=True)
        for name, entries in tensors.items():
            _write(part / f"{name}.safetensors", entries)
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
    tidy(folder, step, keep)


def tidy(folder: RunFolder, step: int, keep: int) -> None:
    """Leaves the ``keep`` latest whole checkpoints up to ``step``; damaged, later and half-written ones go."""
    kept = [path for path in _newest(folder) if path.name <= f"step-{step:09d}" and _whole(path)][:keep]
    for path in folder.checkpoints.iterdir():
        if path not in kept and re.fullmatch(r"step-\d{9}|\.step-\d{9}\.\d+", path.name):
            shutil.rmtree(path, ignore_errors=True)


def write_tensors(path: Path, entries: Mapping[str, Tensor]) -> None:
    """A safetensors file, flushed to disk. Raises UserError where it cannot be written."""
    try:
        _write(path, entries)
        _flush(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}; free space or make the folder writable") from error


def _write(path: Path, entries: Mapping[str, Tensor]) -> None:
    tied = _aliases(entries)
    kept = {k: v.detach().contiguous() for k, v in entries.items() if k not in tied}
    save_file(kept, path)


def _aliases(entries: Mapping[str, Tensor]) -> dict[str, str]:
    """{name: earlier name} of tied weights: one tensor under two names is kept once."""
    first: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, value in entries.items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.data_ptr() and first.setdefault(key, name) != name:
            found[name] = first[key]
    return found


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def latest(folder: RunFolder) -> Path | None:
    """The newest checkpoint whose files are all there with their sizes; None where there is none."""
    return next((path for path in _newest(folder) if _whole(path)), None)


def _newest(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.glob("step-*"), reverse=True)


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
    return read_tensors(path / f"{name}.safetensors")


def read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot read {file}: {error}; delete {file.parent} to go on from the checkpoint before it"
        ) from error


def load_weights(system: torch.nn.Module, weights: Mapping[str, Tensor], origin: Path) -> None:
    """Every parameter and buffer from ``weights``; raises UserError when names or shapes differ."""
    own = system.state_dict()
    tied = {
        name: weights[as_] for name, as_ in _aliases(own).items() if name not in weights and as_ in weights
    }
    weights = {**weights, **tied}
    wrong = [name for name in own if name not in weights or own[name].shape != weights[name].shape]
    wrong += [name for name in weights if name not in own]
    if wrong:
        raise UserError(
            f"{origin} does not fit the recipe: {len(wrong)} of {len(own)} weights differ in name or shape, first "
            f"{wrong[0]!r}; use the recipe it was trained with"
        )
    system.load_state_dict(dict(weights))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[Any]]:
    """(whole tensors named "index/key", parameter groups without their parameters); every rank must ask."""
    state = optimizer.state_dict()
    flat = {f"{i}/{key}": whole(value) for i, entry in state["state"].items() for key, value in entry.items()}
    return {k: v if isinstance(v, Tensor) else torch.tensor(v) for k, v in flat.items()}, state[
        "param_groups"
    ]


def unpack_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor], groups: list[Any]) -> None:
    """Puts back what ``pack_optimizer`` took, cut up as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, _, key = name.partition("/")
        entries.setdefault(int(index), {})[key] = laid_like(value, parameters[int(index)])
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
