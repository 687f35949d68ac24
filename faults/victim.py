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

from pyspark.sql import DataFrame, SparkSession

from entropylong.config import Config
from entropylong.errors import EntropyLongError
from entropylong.maintenance.tables import compact
from entropylong.pipeline.runner import Runner
from entropylong.spark.session import session
from entropylong.storage.store import Store
from entropylong.storage.writer import Writer
from entropylong.utils.log import show


def main() -> None:
    """Run the stage; exit code 1 with its one line where the fault makes it fail."""
    config, stage = Config.model_validate_json(sys.argv[1]), sys.argv[2]
    show()
    spark = session(config)
    jvm = spark.sparkContext._gateway.proc.pid  # type: ignore[union-attr]
    try:
        runner = Runner.open(config, spark)
        if len(sys.argv) > 3 and sys.argv[3] == "commit":
            runner.state.store = FatalStore(config, spark, sys.argv[4], jvm)
        elif len(sys.argv) > 3:
            kill_at_files(sys.argv[4], Path(config.tables), jvm)
        if stage == "compact":
            compact(runner.state, vacuum=False, few_files=1)
        else:
            runner.run([stage])
    except EntropyLongError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    spark.stop()


def _die(jvm: int) -> None:
    os.kill(jvm, signal.SIGKILL)
    os._exit(9)


class FatalStore(Store):
    """A store whose first append to one table is the last thing that its process does."""

    def __init__(self, config: Config, spark: SparkSession, table: str, jvm: int) -> None:
        super().__init__(spark, config.tables)
        self._fatal, self._jvm = table, jvm

    def writer(self, table: str, fingerprint: str, work: str) -> Writer:
        """One that dies after its first append, if it is the table's."""
        if table != self._fatal:
            return super().writer(table, fingerprint, work)
        return FatalWriter(self, table, fingerprint, work, self._jvm)


class FatalWriter(Writer):
    """A writer that kills its process after an append."""

    def __init__(self, store: Store, table: str, fingerprint: str, work: str, jvm: int) -> None:
        super().__init__(store, table, fingerprint, work)
        self._jvm = jvm

    def append(self, frame: DataFrame) -> None:
        """Append, then die."""
        super().append(frame)
        _die(self._jvm)


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
