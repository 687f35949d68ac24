"""The worker daemon's hook with one fault in it: the first task that writes rows of the stage under test suffers it, once.

What to do comes by the environment: FAULT_KIND, FAULT_COLUMN (a column that only this table has), FAULT_MARK (a file: the fault
has happened).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

# Which kind of process goes: the worker itself, its JVM (the parent of the daemon), or none.
TASK, WORKER, EXECUTOR, DRIVER, DIVERGE, SLOW = "task", "worker", "executor", "driver", "diverge", "slow"


def happens_now(mark: str) -> bool:
    """Whether this process is the first to ask; the mark is made at once."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def suffer(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Let the batches pass; after the last of the first task's, the fault happens.

    After the model has run and rows are out: that is when a retry could double or mix them.
    """
    kind, column, mark = (os.environ[f"FAULT_{name}"] for name in ("KIND", "COLUMN", "MARK"))
    first: bool | None = None
    for batch in batches:
        if column in batch.schema.names:
            first = happens_now(mark) if first is None else first
            if kind == DIVERGE and not first:
                batch = _perturbed(batch)
        yield batch
    if first:
        _strike(kind)


def _perturbed(batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = [row | {"entropy": _other(row["entropy"])} if row.get("entropy") else row for row in batch.to_pylist()]
    return pa.RecordBatch.from_pylist(rows, schema=batch.schema)


def _other(profile: bytes) -> bytes:
    return bytes((np.frombuffer(profile, "<f4") * np.float32(1.001)).tobytes())


def _strike(kind: str) -> None:
    if kind == SLOW:
        time.sleep(12)
        return
    if kind in (TASK, DIVERGE):
        raise RuntimeError("a fault of this task")
    if kind == WORKER:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == EXECUTOR:
        stat = Path(f"/proc/{os.getppid()}/stat").read_text()
        os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    # The driver is killed from outside, while this task is at work.
    time.sleep(60)
