"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from entropylong.utils.log import is_shown

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LINE_EVERY_SECONDS = 20.0


class Progressing:
    """Units done of one piece of work, the rate since it began, and the seconds left.

    Args:
        label: the name of the work.
        total: the units in all.
        counted: the word for its units.
        already: the units that were done before; they do not count for the rate.
    """

    def __init__(self, label: str, total: int, counted: str, already: int = 0) -> None:
        self.label, self.total, self.counted = label, total, counted
        self.committed = self._already = already
        self._start = time.monotonic()

    @property
    def left(self) -> int:
        """Units that are not done."""
        return self.total - self.committed

    def settle(self) -> None:
        """Nothing is left: there was less than was counted."""
        self.total = self.committed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def done(self) -> float:
        """Units done, those that were done before among them."""
        return self.committed

    def pace(self) -> tuple[float, float, float | None]:
        """Units done, units per second, and seconds left, None where nothing is done yet.

        By the whole work's rate: tasks end several at a time, and a rate of the last seconds would promise the end at once.
        """
        done = self.done()
        rate = (done - self._already) / max(self.seconds, 1e-9)
        return done, rate, (self.total - done) / rate if rate else None

    def line(self) -> str:
        done, rate, left = self.pace()
        if not rate:
            return f"{self.label}: {self.seconds:.0f} s so far"
        eta = "" if left is None else f", {left:.0f} s left"
        return f"{self.label}: {done:,.0f} / {self.total:,}{f' {self.counted}' if self.counted else ''} ({rate:.1f}/s{eta})"


class StepProgress(Progressing):
    """Rows done of one step. Within a Spark job its finished tasks stand for rows, as rows are only known once committed."""

    def __init__(self, spark: SparkSession, label: str, total: int, counted: str) -> None:
        super().__init__(label, total, counted)
        self._tracker = spark.sparkContext.statusTracker()
        self._batch = 0

    def batch(self, rows: int) -> None:
        """A batch of so many rows begins."""
        self._batch = rows

    def commit(self) -> None:
        """The batch is committed."""
        self.committed += self._batch
        self._batch = 0

    def done(self) -> float:
        """Committed rows, and the share of the running batch that its tasks have finished."""
        return min(self.committed + self._batch * self._task_share(), self.total)

    def _task_share(self) -> float:
        shares = []
        for stage in self._tracker.getActiveStageIds():
            info = self._tracker.getStageInfo(stage)
            if info is not None and info.numTasks > 1:
                shares.append(info.numCompletedTasks / info.numTasks)
        return min(shares, default=0.0)


@contextmanager
def phase(message: str) -> Iterator[None]:
    """Tell what is at work while the body runs, where its end is not known: with the seconds on a terminal, else in a line."""
    if not is_shown():
        yield
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{message} ...", file=sys.stderr, flush=True)
        yield
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as bar:
        bar.add_task(escape(message))
        yield


@contextmanager
def step_progress(spark: SparkSession, label: str, total: int, counted: str = "") -> Iterator[StepProgress]:
    """Show the progress of a step while the body runs: `total` of what is `counted`, a word for people."""
    state = StepProgress(spark, label, total, counted)
    with _displayed(state):
        yield state


@contextmanager
def counted_progress(label: str, counted: str = "answers") -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes (units so far, units in all), and show the progress from its first call until all are done.

    Units that are done at the first call are reported as there already. Of several that are open, one is shown at a time.
    """
    state: Progressing | None = None
    with ExitStack() as display:

        def report(done: int, total: int) -> None:
            nonlocal state
            if state is None:
                if done and is_shown():
                    print(f"{label}: {done:,} of {total:,} {counted} were there already", file=sys.stderr, flush=True)
                state = Progressing(label, total, counted, done)
                display.enter_context(_displayed(state))
            state.committed, state.total = done, total
            if not state.left:
                display.close()

        yield report


@contextmanager
def _displayed(state: Progressing) -> Iterator[None]:
    """Show a bar on a terminal and lines elsewhere, by a thread of their own, while the body runs; nothing under `--quiet`."""
    if not is_shown():
        yield
        return
    console = Console(stderr=True)
    stop = threading.Event()
    watch = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=watch, args=(state, stop, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(state: Progressing, stop: threading.Event, console: Console) -> None:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(state.label, total=state.total, rate="", left="")
        while not stop.wait(0.3):
            done, rate, seconds = state.pace()
            left = "" if seconds is None else f"{timedelta(seconds=int(seconds))} left"
            bar.update(task, completed=int(done), total=state.total, rate=f"{state.counted} {rate:.1f}/s".lstrip(), left=left)


def _lines(state: Progressing, stop: threading.Event, console: Console) -> None:
    while not stop.wait(LINE_EVERY_SECONDS):
        # Once all units are done the work's own last line tells so, with the seconds that its end took.
        if state.left:
            print(f"  {state.line()}", file=sys.stderr, flush=True)
