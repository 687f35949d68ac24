"""A run that is made to suffer: `python -m faults.victim CONFIG_JSON STAGE [KILL_AT TABLE]`.

STAGE is one of a run's, or `compact`. KILL_AT: `files` kills its JVM when data files of the table are there and their commit is
not; `commit` right after the first commit, before any checkpoint knows of it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from entropylong.config import Config
from entropylong.errors import EntropyLongError
from entropylong.maintenance import tables
from entropylong.pipeline.runner import Runner
from entropylong.spark.session import session
from entropylong.storage.store import Store


def main() -> None:
    """Run the stage; exit code 1 with its one line where the fault makes it fail."""
    config, stage = Config.model_validate_json(sys.argv[1]), sys.argv[2]
    spark = session(config)
    jvm = spark.sparkContext._gateway.proc.pid  # type: ignore[union-attr]
    if len(sys.argv) > 3:
        {"files": kill_at_files, "commit": kill_at_commit}[sys.argv[3]](sys.argv[4], Path(config.tables), jvm)
    try:
        if stage == "compact":
            tables.FEW_FILES = 1
            tables.compact(Runner.open(config, spark).state, vacuum=False)
        else:
            Runner.open(config, spark).run([stage])
    except EntropyLongError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    spark.stop()


def _die(jvm: int) -> None:
    os.kill(jvm, signal.SIGKILL)
    os._exit(9)


def kill_at_commit(table: str, tables: Path, jvm: int) -> None:
    """After the first append of a table."""
    append = Store.append

    def append_and_die(self: Store, name: str, *rest: object) -> None:
        append(self, name, *rest)  # type: ignore[arg-type]
        if name == table:
            _die(jvm)

    Store.append = append_and_die  # type: ignore[method-assign,assignment]


def kill_at_files(table: str, tables: Path, jvm: int) -> None:
    """As soon as a new data file is whole."""

    def watch() -> None:
        before = set((tables / table).rglob("*.parquet"))
        while True:
            new = [f for f in (tables / table).rglob("*.parquet") if f not in before and f.stat().st_size > 0]
            if any(f.read_bytes()[-4:] == b"PAR1" for f in new):
                _die(jvm)
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
