"""Where the seconds of this process go: what says how busy an accelerator was."""

from __future__ import annotations

import threading
import time


class Clock:
    """A context manager that adds up the seconds that the main thread spends inside it; other threads are not counted."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> Clock:
        if threading.current_thread() is threading.main_thread():
            self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self.seconds += time.perf_counter() - self._start


# In a model's forward passes; and waiting for rows to come.
FORWARD, WAITING = Clock(), Clock()
