"""What a piece of work costs: CPU seconds of all processes, and what Spark's event log says of its tasks."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """What a piece of work cost.

    Attributes:
        cpu_s: CPU seconds of this process and all that it started, Spark's daemons and executors among them.
        wall_s: seconds on the clock.
        records_read, bytes_read: from files, by all tasks.
        most_tasks: of the stage of Spark that had most.
        peak_driver: bytes of the driver at the end: the JVM's live objects, and this process.
        peak_worker: bytes that the largest Python worker has had.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    records_read: int = 0
    bytes_read: int = 0
    most_tasks: int = 0
    peak_driver: int = 0
    peak_worker: int = 0


class Meter:
    """Measures pieces of work of one session.

    Args:
        spark: The session; it writes an event log that is neither compressed nor rolled.
        log: The folder of that log.
    """

    def __init__(self, spark: SparkSession, log: Path) -> None:
        self._spark, self._folder, self._read = spark, log, 0

    @contextmanager
    def measure(self) -> Iterator[Cost]:
        """Measure what is done in the block."""
        self._events()
        cost, cpu, began = Cost(), cpu_seconds(), time.monotonic()
        yield cost
        cost.wall_s, cost.cpu_s = time.monotonic() - began, cpu_seconds() - cpu
        tasks: dict[tuple[int, int], int] = {}
        for event in self._events():
            if event["Event"] == "SparkListenerTaskEnd":
                read = (event.get("Task Metrics") or {}).get("Input Metrics", {})
                cost.records_read += read.get("Records Read", 0)
                cost.bytes_read += read.get("Bytes Read", 0)
                stage = (event["Stage ID"], event["Stage Attempt ID"])
                tasks[stage] = tasks.get(stage, 0) + 1
        cost.most_tasks = max(tasks.values(), default=0)
        cost.peak_driver, cost.peak_worker = self._driver_bytes(), worker_peak()

    def _events(self) -> list[dict[str, Any]]:
        """Events that were not given yet."""
        self._spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
        (file,) = self._folder.iterdir()
        with file.open() as lines:
            lines.seek(self._read)
            text = lines.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode())
        return [json.loads(line) for line in whole.splitlines()]

    def _driver_bytes(self) -> int:
        gc.collect()
        runtime = self._spark._jvm.java.lang.Runtime.getRuntime()  # type: ignore[union-attr]
        runtime.gc()
        return int(runtime.totalMemory() - runtime.freeMemory()) + _status("self", "VmRSS")


def cpu_seconds() -> float:
    """CPU seconds of this process, all that it started and all that these did, ended ones among them."""
    return sum(_ticks(pid) for pid in _family()) / _TICKS


def worker_peak() -> int:
    """Most memory that a living Python worker of Spark has had."""
    return max((_status(pid, "VmHWM") for pid in _family() if "pyspark.daemon" in _command(pid)), default=0)


def _family() -> list[str]:
    parents = {}
    for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        if (fields := _stat(pid)) is not None:
            parents[pid] = fields[1]
    found, new = [], [str(os.getpid())]
    while new:
        found += new
        new = [pid for pid, parent in parents.items() if parent in new]
    return found


def _stat(pid: str) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _ticks(pid: str) -> int:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) if fields else 0


def _status(pid: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
