"""The contrastive loss of a large batch: ours in tiles against the dense one of two matrices of logits."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from oculex.bench import memory
from oculex.bench.rounds import duel
from oculex.objectives.contrastive import contrastive

ROWS, WIDTH, SCALE = 32_768, 512, 100.0
TIMED = 8_192
"""Rows of the timed rounds, at which the dense loss is not slowed by a full memory."""
MATRICES = 5
"""Matrices of logits that the dense loss needs room for: two of logits and two of log-softmax, and something over."""


def run(rows: int = ROWS, timed: int = TIMED, rounds: int = 5) -> dict[str, Any]:
    """Peak memory and gradients at ``rows``, each side in a process of its own; rows per second at ``timed``.

    Where the dense loss does not fit into the memory that is free, it is measured at half the rows, or half of those,
    its memory multiplied by four each time, and the gradients are compared there; ``peer_rows`` says at how many.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    load, fitting = os.getloadavg()[0], rows
    while MATRICES * 4 * fitting**2 > memory.free(device):
        fitting //= 2
    ours = _alone("ours", rows, device)
    peer = _alone("dense", fitting, device)
    compared = ours if fitting == rows else _alone("ours", fitting, device)
    peer_peak = peer["peak"] * (rows / fitting) ** 2
    inputs = _inputs(timed, device)
    result = duel(partial(_pass, _ours, *inputs), partial(_pass, _dense, *inputs), rounds, timed, "rows/s")
    return result | {
        "timed_rows": timed,
        "memory": {
            "rows": rows, "width": WIDTH, "ours": ours["peak"], "peer": peer_peak, "unit": "bytes over the inputs",
            "ratio": peer_peak / ours["peak"], "peer_rows": fitting,
        },
        "seconds": {"ours": ours["seconds"], "peer": peer["seconds"], "ours_rows": rows, "peer_rows": fitting},
        "gradient_error": {
            name: float((compared[name] - peer[name]).norm() / peer[name].norm())
            for name in ("loss", "image", "text", "scale")
        },
        "float64_error": {name: _error(loss, device) for name, loss in LOSSES.items()},
        "torch": torch.__version__, "threads": torch.get_num_threads(), "load": load,
    }  # fmt: skip


def _ours(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return contrastive(image, text, scale).mean()


def _dense(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The formula of open_clip's ClipLoss, in float32."""
    truth = torch.arange(len(image), device=image.device)
    per_image, per_text = scale * image @ text.T, scale * text @ image.T
    return (F.cross_entropy(per_image, truth) + F.cross_entropy(per_text, truth)) / 2


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"ours": _ours, "dense": _dense}


def _inputs(rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that have learnt something: a text lies near its image, and so probabilities are not all alike."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(rows, WIDTH, generator=generator) for _ in range(2))
    image, text = F.normalize(image, dim=1), F.normalize(image + 6 * noise, dim=1)
    return tuple(x.to(device).requires_grad_() for x in (image, text, torch.tensor(SCALE)))  # type: ignore[return-value]


def _pass(loss: Callable[..., Tensor], image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    image.grad = text.grad = scale.grad = None
    value = loss(image, text, scale)
    value.backward()
    if image.is_cuda:
        torch.cuda.synchronize()
    return value.detach()


def _error(loss: Callable[..., Tensor], device: torch.device, rows: int = 2_048) -> float:
    """Relative error of the image gradient against the dense loss in float64."""
    inputs = _inputs(rows, device)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    _pass(loss, *inputs)
    _pass(_dense, *exact)  # type: ignore[arg-type]
    return float((inputs[0].grad - exact[0].grad).norm() / exact[0].grad.norm())  # type: ignore[operator, union-attr]


def _alone(name: str, rows: int, device: torch.device) -> dict[str, Any]:
    """What ``_child`` measures, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradients.safetensors"
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            figures = pool.submit(_child, name, rows, device, path).result()
        return figures | load_file(path)


def _child(name: str, rows: int, device: torch.device, path: Path) -> dict[str, float]:
    """Seconds and peak bytes over the inputs of one forward and backward pass; the gradients go to ``path``."""
    _pass(LOSSES[name], *_inputs(16, device))
    inputs = _inputs(rows, device)
    before = memory.begin(device)
    begun = time.perf_counter()
    value = _pass(LOSSES[name], *inputs)
    figures = {"seconds": time.perf_counter() - begun, "peak": float(memory.peak(device) - before)}
    image, text, scale = (x.grad.cpu() for x in inputs)  # type: ignore[union-attr]
    save_file({"loss": value.cpu(), "image": image, "text": text, "scale": scale}, path)
    return figures
