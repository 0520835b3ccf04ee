"""Being asked to stop."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signals:
    """SIGTERM and Ctrl-C end the run after the step in hand, with a checkpoint; the second one ends it at once.

    ``asked`` tells whether one has come. Outside the main thread nothing is listened to.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.asked = True
        signal.signal(number, self._old[number])
