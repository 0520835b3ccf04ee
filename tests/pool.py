"""Processes for tests: groups that are reused, and single ones that may be killed.

All are forked from one server that has imported everything once, so a process costs milliseconds, not seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["oculex.runs", "oculex.evaluation.probe", "oculex.systems.contrastive.clip", "torch.utils.tensorboard"]
)


def apart(function: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> int:
    """Calls a function in a process of its own; the exit status, -9 where it was killed."""
    process = begin(function, *arguments)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{function.__name__} took more than {timeout} s")
    return process.exitcode


def begin(function: Callable[..., Any], *arguments: Any) -> Any:
    """A process of its own that has begun, with one thread for arithmetic: sums depend on how many there are."""
    process = CONTEXT.Process(target=_alone, args=(function, arguments))
    process.start()
    return process


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    function(*arguments)


class GlooPool:
    """``ranks`` processes in one gloo group. ``run(f, *a)`` calls f(rank, *a) in each; returns the results by rank.

    Functions and arguments travel by pickle, so functions stand at the top of a test module.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        store = tempfile.mktemp(prefix="gloo-")
        self._pipes, self._processes = [], []
        for rank in range(ranks):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(rank, ranks, store, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(timeout):
                raise TimeoutError(f"rank {rank} gave no answer in {timeout} s")
            answers.append(pipe.recv())
        for rank, (ok, value) in enumerate(answers):
            assert ok, f"rank {rank}:\n{value}"
        return [value for _, value in answers]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
            process.kill()


def _serve(rank: int, ranks: int, store: str, pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    while (call := pipe.recv()) is not None:
        function, arguments = call
        try:
            pipe.send((True, function(rank, *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()
