"""The Python worker daemon with one fault in it: the first task that writes rows of the stage under test suffers it, once.

What to do comes by the environment: FAULT_KIND, FAULT_COLUMN (a column that only this table has), FAULT_MARK (a file: the fault
has happened).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from entropylong import worker_daemon
from entropylong.core import udf
from entropylong.packing import stage as packing

_original, _original_row = udf._record_batches, packing._row
# Which kind of process goes: the worker itself, its JVM (the parent of the daemon), or none.
TASK, WORKER, EXECUTOR, DRIVER, DIVERGE, SLOW = "task", "worker", "executor", "driver", "diverge", "slow"


def happens_now(mark: str) -> bool:
    """Whether this process is the first to ask; the mark is made at once."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _with_fault(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    kind, column, mark = (os.environ[f"FAULT_{name}"] for name in ("KIND", "COLUMN", "MARK"))
    if column not in schema.names:
        yield from _original(rows, schema)
        return
    # After the model has run and rows are out: that is when a retry could double or mix them.
    first = happens_now(mark)
    if kind == DIVERGE and not first:
        rows = [row | {"entropy": _perturbed(row["entropy"])} if row.get("entropy") else row for row in rows]
    yield from _original(list(rows), schema)
    if first:
        _strike(kind)


def _packed_with_fault(*sequence: Any) -> dict[str, Any]:
    row = _original_row(*sequence)
    kind, column, mark = (os.environ[f"FAULT_{name}"] for name in ("KIND", "COLUMN", "MARK"))
    if column in row and happens_now(mark):
        _strike(kind)
    return row


def _perturbed(profile: bytes) -> bytes:
    import numpy as np

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


def main() -> None:
    """Serve with the fault in place."""
    udf._record_batches = _with_fault
    # Packing gives whole tables, by a way of its own.
    packing._row = _packed_with_fault
    worker_daemon.main()


if __name__ == "__main__":
    main()
