"""Start the ranks of a run from Spark, and follow them: progress, errors, a request to stop. Driver side.

Ranks are processes of `entropylong.training.rank`, started by TorchDistributor on this machine or on Spark's executors, or by
torchrun without Spark: all three read the same settings file and leave their steps in the run's folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entropylong.errors import SetupError, TrainingError
from entropylong.spark.session import settings_of, task_threads
from entropylong.training.steps import STOP, read_log

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)

MODULE = "entropylong.training.rank"
LOG = "ranks.log"
POLL_SECONDS = 0.5
_DIED = re.compile(r"exitcode\s*:\s*(-\d+)")


def torchrun_line(settings: Path, ranks: int) -> str:
    """The command that does the same on one machine without Spark. After SIGTERM it leaves the ranks time to finish their step."""
    return shlex.join(
        ["torchrun", "--standalone", "--shutdown-timeout=900", f"--nproc-per-node={ranks}", "-m", MODULE, str(settings)]
    )


def default_ranks() -> int:
    """GPUs of this machine, or one process."""
    import torch

    return max(1, torch.cuda.device_count())


def rank_threads(spark: SparkSession, mode: str, ranks: int) -> int:
    """Threads of a process: its share of this machine's cores, or the cores of its Spark task."""
    return task_threads(spark) if mode == "cluster" else max(1, (os.cpu_count() or 1) // ranks)


def check_cluster(conf: Mapping[str, str], slots: int, ranks: int) -> None:
    """Raise where the executors would not run all ranks at once, a GPU each: Spark would wait for ten minutes, or take CPUs.

    Args:
        conf: Spark's settings.
        slots: tasks that the executors run at a time.
        ranks: of the run.
    """
    of_executor, of_task = (conf.get(f"spark.{part}.resource.gpu.amount", "0") for part in ("executor", "task"))
    if (of_executor != "0" or of_task != "0") and float(of_task) != 1:
        raise SetupError(
            f"train.launch cluster: a rank takes one GPU, spark.task.resource.gpu.amount is {of_task}; start Spark with it at 1"
        )
    if conf.get("spark.dynamicAllocation.enabled") != "true" and ranks > slots:
        raise SetupError(
            f"train.launch cluster: {ranks} ranks run at once, the executors have room for {slots} tasks; "
            "lower train.ranks or add executors"
        )


def launch(spark: SparkSession, settings: Path, ranks: int, mode: str, on_entry: Callable[[dict[str, Any]], None]) -> None:
    """Run the ranks to their end.

    Args:
        spark: the session.
        settings: the run's settings file.
        ranks: processes.
        mode: "local", this machine, or "cluster", an executor's barrier task each.
        on_entry: gets each line of the run's log as it is written.

    Raises:
        TrainingError: a rank failed; what it said, or which signal ended it.
        SetupError: the cluster has no room for them.
    """
    from pyspark.ml.torch.distributor import TorchDistributor

    folder = settings.parent
    if mode == "cluster":
        check_cluster(settings_of(spark), spark.sparkContext.defaultParallelism // task_threads(spark), ranks)
    for stale in [folder / STOP, *folder.glob("error-*")]:
        stale.unlink(missing_ok=True)
    on_gpus = mode == "cluster" and "spark.task.resource.gpu.amount" in settings_of(spark)
    # On this machine each rank takes its own GPU; the distributor would ask Spark for GPUs of the driver.
    distributor = TorchDistributor(num_processes=ranks, local_mode=mode == "local", use_gpu=on_gpus)
    distributor.logger.setLevel(logging.ERROR)
    failed: list[Exception] = []

    def run() -> None:
        # A key pressed is for the driver, which asks by a file: its children would fall over each other.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # A file would have to lie at the same place on each executor; a module is found where the package is installed.
            distributor.run("-m", MODULE, str(settings))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    # What the distributor prints for its ranks: of a failure, hundreds of lines.
    with (folder / LOG).open("w") as log, redirect_stdout(log), _stop_by(folder / STOP):
        thread.start()
        follow(folder, on_entry, lambda: _ended(thread))
    if failed:
        raise TrainingError(_why(folder, failed[0]))


def follow(folder: Path, on_entry: Callable[[dict[str, Any]], None], ended: Callable[[], bool]) -> None:
    """Hand on each entry of a run's log, as it comes, until the run has ended."""
    past = read_log(folder)
    is_over = False
    while not is_over:
        is_over = ended()
        entries = read_log(folder)
        # After a resume the steps that were lost are taken back and come once more.
        same = next(
            (n for n, (one, other) in enumerate(zip(past, entries, strict=False)) if one != other), min(len(past), len(entries))
        )
        for entry in entries[same:]:
            on_entry(entry)
        past = entries


def _ended(thread: threading.Thread) -> bool:
    thread.join(POLL_SECONDS)
    return not thread.is_alive()


@contextmanager
def _stop_by(file: Path) -> Iterator[None]:
    """A signal to the driver asks the ranks, wherever they are, to save and end; a second one ends the driver."""

    def ask(number: int, frame: object) -> None:
        if file.exists():
            raise KeyboardInterrupt
        file.touch()
        logger.warning("asked to stop: the step under way is finished and saved")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why(folder: Path, error: Exception) -> str:
    """What a rank said of its end; else the signal that ended it; else the distributor's last line."""
    for file in sorted(folder.glob("error-*")):
        return str(json.loads(file.read_text())["error"])
    log = f"{(folder / LOG).read_text()}\n{error}"
    if died := _DIED.search(log):
        name = signal.Signals(-int(died[1])).name
        return (
            f"a rank was ended by {name}"
            + (" (out of memory?)" if name == "SIGKILL" else "")
            + "; start the same command again: it "
            f"goes on from the newest checkpoint; what the ranks printed: {folder / LOG}"
        )
    if re.search(r"No module named '?entropylong", log):
        return (
            "a rank did not find entropylong: install it on each executor, by a wheel or an environment; --py-files is not enough"
        )
    lines = [line.strip() for line in str(error).splitlines() if re.match(r"\s*(\[rank\d+\]:\s*)?[\w.]*(Error|Exception)\b", line)]
    reason = lines[-1] if lines else " ".join(str(error).split())[:200]
    return f"a rank failed: {reason[:300]}; what the ranks printed: {folder / LOG}"
