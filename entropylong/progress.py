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

    def line(self) -> str:
        done, seconds = self.rows(), self.seconds
        rate = done / seconds if seconds > 0 else 0.0
        eta = f", {(self._total - done) / rate:.0f} s left" if rate > 0 else ""
        return f"{self._label}: {done:,.0f} / {self._total:,}{f' {self._counted}' if self._counted else ''} ({rate:.1f}/s{eta})"


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
            done = state.rows()
            # By the whole run's rate: tasks end several at a time, and a rate of the last seconds would promise the end at once.
            rate = done / max(state.seconds, 1e-9)
            left = f"{timedelta(seconds=int((state._total - done) / rate))} left" if rate else ""
            bar.update(task, completed=int(done), rate=f"{state._counted} {rate:.1f}/s".lstrip(), left=left)


def _lines(state: StepProgress, stop: threading.Event, console: Console) -> None:
    while not stop.wait(LINE_EVERY_SECONDS):
        print(f"  {state.line()}", file=sys.stderr, flush=True)
