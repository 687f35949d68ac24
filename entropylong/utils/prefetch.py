"""Prepare the next items while the model is at work on the last ones. Pure Python."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from entropylong.utils.timing import WAITING

T = TypeVar("T")

AHEAD = 256


def prefetch(items: Iterable[T], ahead: int = AHEAD) -> Iterator[T]:
    """The items in their order, computed by a thread of their own, at most `ahead` of them in advance.

    An error of the items is raised where the item would have come. The thread ends with the generator.
    """
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return waiting.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            with WAITING:
                kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value  # type: ignore[misc]
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(timeout=10)
