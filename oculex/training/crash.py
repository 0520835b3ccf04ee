"""Steps that stop a run before its weights are touched: a loss or gradient that is not finite, or a spike.

What it takes to see such a step again is kept in the run, in crash/step-N: its samples, its seed and the weights that
it met. So it can be repeated alone, long after the run went on without it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from oculex.contracts import Batch, UserError
from oculex.training import checkpoint
from oculex.training.folder import RunFolder, read_json, write_json


class Spikes:
    """Gradient norms that exceed so many times the median of the last hundred. The first twenty are only learnt from."""

    KEEP, LEARN = 100, 20

    def __init__(self, times: float | None) -> None:
        self.times, self.norms = times, deque[float](maxlen=self.KEEP)

    def is_one(self, norm: float) -> bool:
        """Whether ``norm`` is a spike. One that is not counts from now on."""
        if self.times is None or not math.isfinite(norm):
            return False
        if len(self.norms) >= self.LEARN and norm > self.times * median(self.norms):
            return True
        self.norms.append(norm)
        return False


def folder_of(run: RunFolder, step: int) -> Path:
    return run.path / "crash" / f"step-{step:09d}"


def record(run: RunFolder, facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Path:
    """Writes a crash's facts and the weights it met; the path of crash.json."""
    folder = folder_of(run, facts["step"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"step {facts['step']} stopped the run, and {folder} cannot be written: {error.strerror}"
        ) from error
    checkpoint.write_tensors(folder / "weights.safetensors", weights)
    write_json(folder / "crash.json", _printable(dict(facts)))
    return folder / "crash.json"


def last(run: RunFolder) -> int:
    """The step of the newest crash; raises UserError where there is none."""
    found = sorted(run.path.glob("crash/step-*/crash.json"))
    if not found:
        raise UserError(f"{run.path} has no crash to skip; use `oculex resume` without --skip-batch")
    return int(read_json(found[-1])["step"])


def read(file: Path) -> tuple[RunFolder, dict[str, Any], dict[str, Tensor]]:
    """The run of a crash.json, its facts, and the weights that the step met."""
    run, facts = told_by(file)
    return run, facts, checkpoint.read_tensors(file.parent / "weights.safetensors")


def told_by(file: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The run of a crash.json and its facts; raises UserError for another file."""
    facts = read_json(file)
    if not isinstance(facts, dict) or not {"step", "ids", "values"} <= facts.keys():
        raise UserError(f"{file} is not a crash.json; a run that stopped names its own")
    return RunFolder.open(file.absolute().parents[2]), facts


def examine(
    system: Any, batch: Batch, ids: list[str], features: Mapping[str, Tensor], terms: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What of a step is not finite: samples, by their inputs, features and losses; weights and gradients, by name.

    Samples are told by the first of these that knows: what a broken sample does to the loss of a batch, it does to all.
    ``features`` and ``terms`` count where they have a row per sample.
    """
    inputs = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    samples: dict[str, str] = {}
    for kind, entries in {"input": inputs, "feature": features, "loss": terms}.items():
        samples = samples or {
            ids[row]: f"{kind} {name}"
            for name, value in entries.items()
            if value.is_floating_point() and value.ndim and len(value) == len(ids)
            for row in (~value.isfinite().flatten(1).all(1) if value.ndim > 1 else ~value.isfinite())
            .nonzero()
            .flatten()
            .tolist()
        }
    named = list(system.named_parameters())
    return {
        "samples": samples,
        "weights": [name for name, p in named if not p.isfinite().all()],
        "gradients": [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()],
        "norms": norms(system),
    }


class Watched:
    """Keeps what a system encodes and loses while a step is repeated."""

    def __init__(self, system: Any, micro_batches: int) -> None:
        self._features: list[dict[str, Tensor]] = []
        self._terms: list[dict[str, Tensor]] = []
        self._first = micro_batches
        system.encode, system.losses = (
            self._keeping(system.encode, self._features),
            self._keeping(system.losses, self._terms),
        )

    @staticmethod
    def _keeping(call: Any, into: list[dict[str, Tensor]]) -> Any:
        def kept(*arguments: Any) -> dict[str, Tensor]:
            out = call(*arguments)
            into.append({name: value.detach() for name, value in out.items()})
            return out

        return kept

    def features(self) -> dict[str, Tensor]:
        """Of the whole batch, from the first time that each micro-batch was encoded."""
        return _joined(self._features[: self._first])

    def terms(self) -> dict[str, Tensor]:
        return _joined(self._terms)


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if parts[0][name].ndim}


def norms(system: nn.Module) -> dict[str, float]:
    """Gradient norm of each part of the system, and of what it holds itself."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in system.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(name.partition(".")[0], []).append(parameter.grad)
    return {part: float(nn.utils.get_total_norm(gradients)) for part, gradients in parts.items()}


def told(found: Mapping[str, Any]) -> Iterable[str]:
    """The lines that a person reads of a repeated step."""
    yield f"step {found['step']}, {len(found['ids'])} samples"
    yield from (f"  {name:<24} {value:.6g}" for name, value in found["values"].items())
    yield "gradient norms"
    yield from (f"  {name:<24} {value:.6g}" for name, value in found["norms"].items())
    for kind in ("samples", "weights", "gradients"):
        entries = found[kind]
        named = [f"{k} ({v})" for k, v in entries.items()] if isinstance(entries, dict) else entries
        yield f"{kind} that are not finite: {len(named)}{': ' if named else ''}{', '.join(named[:20])}"


def _printable(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, dict):
        return {key: _printable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_printable(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
