"""How far an evaluation is: a bar with rate and ETA on a terminal, a line each tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def shown(name: str, unit: str = "answers") -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be told (units so far, units in all). What was there at the first call is said to have been there."""
    told = -1
    if not sys.stderr.isatty():

        def line(done: int, total: int) -> None:
            nonlocal told
            if told < 0 and done:
                print(_kept(name, unit, done, total), file=sys.stderr, flush=True)
            if (tenth := 10 * done // max(1, total)) > told:
                told = tenth
                print(f"{name}: {done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(name, total=None)

    def moved(done: int, total: int) -> None:
        nonlocal told
        if told < 0:
            bar.start()  # from its first unit to its last: of two, one is on the terminal at a time
            if done:
                bar.console.print(_kept(name, unit, done, total), highlight=False)
        told = done
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    try:
        yield moved
    finally:
        bar.stop()


def _kept(name: str, unit: str, done: int, total: int) -> str:
    return f"{name}: {done:,} of {total:,} {unit} were there already"
