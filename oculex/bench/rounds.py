"""Alternating rounds of two contestants, and the machine's own ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def duel(
    ours: Callable[[], Any], peer: Callable[[], Any], rounds: int, work: float, unit: str
) -> dict[str, Any]:
    """Both in turn, ``rounds`` times, the order swapped every round; ``work`` items a call.

    The ratio is taken within a round, so that a slow minute of the machine slows both of its sides. ``cpu_seconds``, the
    processor time of a call in the median over rounds, is what remains comparable on a machine that others use too, if
    there is one thread: waiting threads spin.
    """
    seconds, cpu = np.zeros((rounds, 2)), np.zeros((rounds, 2))
    for each in (ours, peer):
        each()
    for index in range(rounds):
        sides = [(0, ours), (1, peer)]
        for side, call in sides if index % 2 == 0 else reversed(sides):
            begun, used = time.perf_counter(), time.process_time()
            call()
            seconds[index, side] = time.perf_counter() - begun
            cpu[index, side] = time.process_time() - used
    ratio = np.quantile(seconds[:, 1] / seconds[:, 0], [0.1, 0.5, 0.9])
    rate = work / np.median(seconds, axis=0)
    return {
        "ours": float(rate[0]),
        "peer": float(rate[1]),
        "unit": unit,
        "ratio": {"median": float(ratio[1]), "low": float(ratio[0]), "high": float(ratio[2])},
        "cpu_seconds": dict(zip(("ours", "peer"), np.median(cpu, axis=0).tolist(), strict=True)),
        "rounds": rounds,
    }


def matmul_peak(dtype: torch.dtype, device: torch.device, size: int = 2048, rounds: int = 5) -> float:
    """Floating-point operations per second of a large square matrix product, the best of ``rounds``."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
