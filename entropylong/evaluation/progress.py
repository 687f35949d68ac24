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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def moved(done: int, total: int) -> None:
            nonlocal told
            if told < 0 and done:
                bar.console.print(_kept(name, unit, done, total))
            told = done
            bar.update(task, completed=done, total=total)

        yield moved


def _kept(name: str, unit: str, done: int, total: int) -> str:
    return f"{name}: {done:,} of {total:,} {unit} were there already"
