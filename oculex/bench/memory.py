"""Peak memory of a stretch of a program: a GPU's allocator knows its own, a CPU's process reads Linux's accounts."""

from __future__ import annotations

import re
from pathlib import Path

import torch


def begin(device: torch.device) -> int:
    """Forgets earlier peaks, those of the process that started this one among them; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes(Path("/proc/self/status"), "VmRSS")


def peak(device: torch.device) -> int:
    """Most bytes in use since ``begin``."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return _kilobytes(Path("/proc/self/status"), "VmHWM")


def free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _kilobytes(path: Path, field: str) -> int:
    """Bytes of a line of Linux's own accounts."""
    found = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    assert found is not None, f"{path} has no {field}"
    return 1024 * int(found[1])
