"""Seconds until a user sees something."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np

COMMANDS = {"import oculex": ["-c", "import oculex"], "oculex list": ["-m", "oculex", "list"]}


def run(rounds: int = 7) -> dict[str, Any]:
    """Median, best and worst of fresh interpreters."""
    result: dict[str, Any] = {}
    for name, arguments in COMMANDS.items():
        seconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds.append(time.perf_counter() - begun)
        low, median, high = np.quantile(seconds, [0, 0.5, 1])
        result[name] = {"seconds": float(median), "low": float(low), "high": float(high)}
    return result
