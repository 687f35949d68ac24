"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LINE_EVERY_SECONDS = 20.0


class StepProgress:
    """Rows done of one step. Within a Spark job its finished tasks stand for rows, as rows are only known once committed."""

    def __init__(self, spark: SparkSession, label: str, total: int, counted: str, console: Console) -> None:
        self._tracker = spark.sparkContext.statusTracker()
        self._label, self._total, self._counted, self._console = label, total, counted, console
        self.committed = 0
        self._batch = 0
        self._start = time.monotonic()

    def batch(self, rows: int) -> None:
        """A batch of so many rows begins."""
        self._batch = rows

    def commit(self) -> None:
        """The batch is committed."""
        self.committed += self._batch
        self._batch = 0

    @property
    def left(self) -> int:
        """Rows that are not committed."""
        return self._total - self.committed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def rows(self) -> float:
        """Committed rows, and the share of the running batch that its tasks have finished."""
        return min(self.committed + self._batch * self._task_share(), self._total)

    def _task_share(self) -> float:
        shares = []
        for stage in self._tracker.getActiveStageIds():
            info = self._tracker.getStageInfo(stage)
            if info is not None and info.numTasks > 1:
                shares.append(info.numCompletedTasks / info.numTasks)
        return min(shares, default=0.0)

    def pace(self) -> tuple[float, float, float | None]:
        """Rows done, rows a second, and seconds left, None where nothing is done yet.

        By the whole step's rate: tasks end several at a time, and a rate of the last seconds would promise the end at once.
        """
        done = self.rows()
        rate = done / max(self.seconds, 1e-9)
        return done, rate, (self._total - done) / rate if rate else None

    def line(self) -> str:
        done, rate, left = self.pace()
        if not done:
            return f"{self._label}: {self.seconds:.0f} s so far"
        eta = "" if left is None else f", {left:.0f} s left"
        return f"{self._label}: {done:,.0f} / {self._total:,}{f' {self._counted}' if self._counted else ''} ({rate:.1f}/s{eta})"


@contextmanager
def phase(said: str) -> Iterator[None]:
    """Tell what is at work while the body runs, where its end is not known: with the seconds on a terminal, else in a line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{said} ...", file=sys.stderr, flush=True)
        yield
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as bar:
        bar.add_task(escape(said))
        yield


@contextmanager
def step_progress(spark: SparkSession, label: str, total: int, counted: str = "") -> Iterator[StepProgress]:
    """Show the progress of a step while the body runs: `total` of what is `counted`, a word for people."""
    console = Console(stderr=True)
    state = StepProgress(spark, label, total, counted, console)
    stop = threading.Event()
    watch = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=watch, args=(state, stop, console), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        stop.set()
        thread.join()


def _bar(state: StepProgress, stop: threading.Event, console: Console) -> None:
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
        task = bar.add_task(state._label, total=state._total, rate="", left="")
        while not stop.wait(0.3):
            done, rate, seconds = state.pace()
            left = "" if seconds is None else f"{timedelta(seconds=int(seconds))} left"
            bar.update(task, completed=int(done), rate=f"{state._counted} {rate:.1f}/s".lstrip(), left=left)


def _lines(state: StepProgress, stop: threading.Event, console: Console) -> None:
    while not stop.wait(LINE_EVERY_SECONDS):
        # Once all rows are done the step's own last line tells so, with the seconds that its end took.
        if state.left:
            print(f"  {state.line()}", file=sys.stderr, flush=True)
