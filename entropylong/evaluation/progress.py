"""How far an evaluation is: a bar with rate and ETA on a terminal, a line each tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def shown(name: str) -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be told (answers so far, answers in all)."""
    if not sys.stderr.isatty():
        told = -1

        def line(done: int, total: int) -> None:
            nonlocal told
            if (tenth := 10 * done // max(1, total)) > told:
                told = tenth
                print(f"{name}: {done:,} of {total:,} answers", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
