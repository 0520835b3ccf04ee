"""The simulator in a process of its own: ``Simulator().call(function, ...)``.

Drivers that draw without a display bring their own copy of LLVM, beside which deep learning libraries may crash, and what
they draw belongs to one thread; so nothing that draws is ever loaded into the caller's process. Both ends are this file.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import UserError
from oculex.simulation.layout import Layout, TableConfig


class Simulator:
    """A process that simulates; it ends with this object, or with the caller's process."""

    def __init__(self) -> None:
        here = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "oculex.simulation.remote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={"LP_NUM_THREADS": "0"} | dict(os.environ) | {"PYTHONPATH": paths},
        )  # fmt: skip
        self._lock = threading.Lock()
        pipes: Any = self._process.stdin, self._process.stdout
        self._ask, self._answer = pipes

    def call(self, function: str, *arguments: Any) -> Any:
        """What one of ``FUNCTIONS`` returns. Raises the UserError that it raises, and one where the process has ended."""
        with self._lock:
            try:
                pickle.dump((function, arguments), self._ask)
                self._ask.flush()
                found = pickle.load(self._answer)
            except (EOFError, BrokenPipeError) as error:
                raise UserError(
                    f"the simulator's process has ended (status {self._process.wait()}); what it said stands above, and "
                    "MUJOCO_GL=egl or MUJOCO_GL=glx choose how it draws"
                ) from error
        if isinstance(found, UserError):
            raise found
        return found

    def close(self) -> None:
        self._ask.close()
        self._process.wait()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


# ------------------------------------------------------------------------------------- in the other process

_TABLES: dict[int, Any] = {}


def _begin(
    config: TableConfig, size: int, layouts: Mapping[int, Layout], draw: bool
) -> dict[int, np.ndarray]:
    from oculex.simulation.table import TableTop

    _TABLES.clear()
    for number, layout in layouts.items():
        _TABLES[number] = TableTop(config, size)
        _TABLES[number].lay(layout)
    return {number: table.render() for number, table in _TABLES.items()} if draw else {}


def _step(actions: Mapping[int, np.ndarray], draw: bool) -> dict[int, tuple[np.ndarray | None, bool, bool]]:
    """(what is seen now, success, whether the episode is over) of each table that is acted on."""
    from oculex.simulation.table import STEPS

    out = {}
    for number, action in actions.items():
        table = _TABLES[number]
        ends = table.act(action)
        success = table.success()
        over = ends or success or table.steps >= STEPS
        out[number] = (None if over or not draw else table.render(), success, over)
    return out


def _advise(targets: Mapping[int, int]) -> dict[int, np.ndarray]:
    """What the demonstrator would do with the thing of each table that is named."""
    from oculex.simulation.expert import expert

    return {number: expert(_TABLES[number], target) for number, target in targets.items()}


def _film(config: TableConfig, layout: Layout, actions: Sequence[np.ndarray], size: int) -> np.ndarray:
    """uint8 [len(actions) + 1, size, size, 3]: an episode again, which physics makes the same."""
    from oculex.simulation.table import TableTop

    table = TableTop(config, size)
    table.lay(layout)
    seen = [table.render()]
    for action in actions:
        table.act(action)
        seen.append(table.render())
    return np.stack(seen)


def _demonstrate(*arguments: Any) -> Any:
    from oculex.simulation.expert import demonstrate

    return demonstrate(*arguments)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "begin": _begin,
    "step": _step,
    "advise": _advise,
    "film": _film,
    "demonstrate": _demonstrate,
}


def _serve() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to standard error
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found = FUNCTIONS[function](*arguments)
        except UserError as error:
            found = error
        pickle.dump(found, answer)
        answer.flush()


if __name__ == "__main__":
    _serve()
