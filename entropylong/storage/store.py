"""The one port to Delta: addresses, creation, reading at a version, appends, session views.

Runs on the driver. A stage never comes here; the runner does.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.config.section import CATALOG_SCHEMA
from entropylong.errors import TableError, WorkerDiedError
from entropylong.storage.codes import CONTAMINATED, Outcomes
from entropylong.storage.counting import AppendCount
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import ERROR, OK, TABLES
from entropylong.storage.statements import conform, create_statement, quoted
from entropylong.storage.writer import Writer, concurrent

# Of Delta's error classes: another transaction won.
_CONFLICT = re.compile("DELTA_(CONCURRENT_|METADATA_CHANGED|PROTOCOL_CHANGED)")
# Where Delta notes the version of a session's last commit.
_LAST_COMMIT = "spark.databricks.delta.lastCommitVersionInSession"


class Store:
    """Delta tables under one address: a directory, or catalog.schema.

    Args:
        spark: the session.
        tables: the `tables` key of the config.
    """

    def __init__(self, spark: SparkSession, tables: str) -> None:
        self.spark = spark
        self._catalog = tables if CATALOG_SCHEMA.match(tables) and not Path(tables).exists() else None
        self._directory = tables.rstrip("/")
        self._versions: dict[str, int] = {}
        # What the newest commit goes by: the label that its writer gave it, or its time.
        self._marks: dict[str, str] = {}
        self._present: set[str] = set()
        # Table -> fingerprint -> rows by (outcome, code), at the version that is known.
        self._outcomes: dict[str, dict[str, Outcomes]] = {}

    def address(self, table: str) -> str:
        """What SQL calls the table: catalog.schema.name, or delta.`path`."""
        return quoted(self.place(table)) if self._catalog else f"delta.{quoted(self.place(table), sep=None)}"

    def place(self, table: str) -> str:
        """Where the table is, for people and records: catalog.schema.name, or its directory."""
        if self._catalog:
            return f"{self._catalog}.{table}"
        path = f"{self._directory}/{table}"
        return path if "://" in path else str(Path(path).absolute())

    @cached_property
    def _in_local_files(self) -> bool:
        """Whether Python sees the tables' directory as Spark does: a path alone is on the cluster's default file system."""
        jsc = self.spark.sparkContext._jsc
        return "://" not in self._directory and str(jsc.hadoopConfiguration().get("fs.defaultFS")).startswith("file:")

    @cached_property
    def _may_lose_executors(self) -> bool:
        return (self.spark.sparkContext.master or "").partition("[")[0] != "local"

    @property
    def in_catalog(self) -> bool:
        """Whether tables go by name."""
        return self._catalog is not None

    def _delta(self, table: str) -> DeltaTable:
        return (
            DeltaTable.forName(self.spark, self.address(table))
            if self._catalog
            else DeltaTable.forPath(self.spark, self.place(table))
        )

    def exists(self, table: str) -> bool:
        """Whether the table is there; one that was seen is not looked for again, as no command takes a table away."""
        if table not in self._present and self._is_there(table):
            self._present.add(table)
        return table in self._present

    def _is_there(self, table: str) -> bool:
        if self._catalog:
            return self.spark.catalog.tableExists(self.address(table))
        place = self.place(table)
        if self._in_local_files and not (Path(place) / "_delta_log").is_dir():
            return False  # most are not there yet when a run asks; the file system knows it for less than Delta does
        if DeltaTable.isDeltaTable(self.spark, place):
            return True
        # Delta remembers what it saw: where it looked at a folder before another machine's first commit, it goes on to see no
        # table. What was then read as empty was written again. Loading looks at the folder anew.
        try:
            self.spark.read.format("delta").load(place)
        except AnalysisException:
            return False
        return True

    def create(self, table: str) -> None:
        """Create the table with comments, properties and constraints, if it is not there.

        Raises:
            TableError: it cannot be made (permission, disk, files that are no table at its place).
        """
        if self.exists(table):
            return
        for seconds in (1, 1, 3, None):
            try:
                with self._noting_version(table, self.spark):
                    self.spark.sql(create_statement(self.address(table), TABLES[table]))
                return
            except (PySparkException, Py4JJavaError) as error:
                # Another machine made it, or is at it: its folder is there a moment before its first commit. Looked at again.
                if seconds is None:
                    raise TableError(f"table {table}: cannot be made: {root_cause(error)}") from error
                time.sleep(seconds)

    def is_new(self, table: str) -> bool:
        """Whether the table was made and nothing was added to it, as far as this store knows without a query."""
        return self._versions.get(table) == 0

    def version(self, table: str) -> int:
        """Latest Delta version (-1: no table), or that of this store's own last write: in a locked workspace no one else writes."""
        if table not in self._versions:
            self._look(table)
        return self._versions.get(table, -1)

    def commit(self, table: str) -> str:
        """The newest commit, by version and by label or time in ms: a table made anew comes to the same version, not to the same
        label or time."""
        if table not in self._marks:
            self._look(table)
        return f"{self._versions.get(table, -1)}@{self._marks.get(table, 0)}"

    def _look(self, table: str) -> None:
        if self.exists(table):
            time_ms = F.unix_millis("timestamp").cast("string")
            newest = self.history(table, 1).select("version", F.coalesce("userMetadata", time_ms)).collect()[0]
            self._versions[table], self._marks[table] = int(newest[0]), str(newest[1])

    def _forget(self, table: str) -> None:
        self._versions.pop(table, None)
        self._marks.pop(table, None)
        self._outcomes.pop(table, None)

    @contextmanager
    def _noting_version(self, table: str, session: SparkSession) -> Iterator[None]:
        """Take the version from what Delta notes of a session's own commit: to ask the table's history takes a query.

        A stream's batches have a session of their own. Of a write that Delta knew already nothing is noted.
        """
        self._forget(table)
        session.conf.unset(_LAST_COMMIT)
        yield
        if (own := session.conf.get(_LAST_COMMIT, None)) is not None:
            self._versions[table] = int(own)

    def forget_versions(self) -> None:
        """Look again: others may have written before the workspace was locked."""
        self._versions.clear()
        self._marks.clear()
        self._outcomes.clear()
        self._present.clear()

    def read_all(self, table: str, version: int | None = None) -> DataFrame:
        """Read the rows of all fingerprints of a table, at one version. A table that does not exist reads as empty."""
        if not self.exists(table):
            return local_frame(self.spark, [], TABLES[table].struct)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.table(self.address(table)) if self._catalog else reader.load(self.place(table))

    def read(self, table: str, fingerprint: str | None, version: int | None = None) -> DataFrame:
        """Read the rows of one fingerprint, at one version; none for a fingerprint that is not resolved yet."""
        if fingerprint is None:
            return local_frame(self.spark, [], TABLES[table].struct)
        return self.read_all(table, version).where(F.col("fingerprint") == fingerprint)

    def read_ok(self, table: str, fingerprint: str | None, version: int | None = None) -> DataFrame:
        """Read the ok rows of one fingerprint."""
        return self.read(table, fingerprint, version).where(F.col("outcome") == OK)

    def outcomes(self, table: str, fingerprint: str | None) -> Outcomes:
        """Count the rows of one fingerprint by (outcome, code): once, as each append of this store says what it adds."""
        if fingerprint is None or not self.exists(table) or self.is_new(table):
            return {}
        if fingerprint not in self._outcomes.get(table, {}):
            self.version(table)  # first: of what others add after it, the next append here is told by its own version
            found = self.read(table, fingerprint).groupBy("outcome", "code").count().collect()
            self._outcomes.setdefault(table, {})[fingerprint] = {(r.outcome, r.code): int(r["count"]) for r in found}
        return dict(self._outcomes[table][fingerprint])

    def know_outcomes(self, table: str, fingerprint: str, outcomes: Outcomes) -> None:
        """Take rows by (outcome, code) as another run counted them at the version that is the newest one now."""
        self._outcomes.setdefault(table, {}).setdefault(fingerprint, dict(outcomes))

    def read_stream(self, table: str, fingerprint: str | None, batch_bytes: int) -> DataFrame:
        """The ok rows of one fingerprint as a stream; dropped fingerprints, error rows taken out and compaction give no rows."""
        reader = self.spark.readStream.format("delta").option("skipChangeCommits", "true").option("maxBytesPerTrigger", batch_bytes)
        frame = reader.table(self.address(table)) if self._catalog else reader.load(self.place(table))
        return frame.where((F.col("fingerprint") == fingerprint) & (F.col("outcome") == OK))

    def writer(self, table: str, fingerprint: str, work: str) -> Writer:
        """Begin a work whose rows one run alone may add. What is left of it is read after this.

        Args:
            table: Table to append to; made if it is not there.
            fingerprint: Fingerprint of all rows.
            work: Name of the work, the same in each run that does it.
        """
        return Writer(self, table, fingerprint, work)

    def append(self, table: str, frame: DataFrame, fingerprint: str | None, options: Mapping[str, Any] | None = None) -> bool:
        """One append of rows that any number of runs may add (`writer` is for those that one alone may).

        Args:
            table: Table to append to; made if it is not there.
            frame: Rows, good and refused ones together.
            fingerprint: Fingerprint of all rows; None: each has its own.
            options: Options of Delta's writer.

        Returns:
            Whether a commit of this session is noted.

        Raises:
            TableError: the write failed (disk, permission, a violated constraint); nothing of it is visible.
            ConcurrentRunError: what this write has read was added to by another run meanwhile; nothing of it is visible.
        """
        self.create(table)
        before, known = self._versions.get(table), self._outcomes.get(table, {})
        count = AppendCount() if fingerprint is not None and (before == 0 or fingerprint in known) else None
        rows = conform(frame, TABLES[table], fingerprint)
        rows = count.watch(rows) if count else rows
        writer = rows.write.format("delta").mode("append").options(**(options or {}))
        try:
            with self._noting_version(table, rows.sparkSession):
                writer.saveAsTable(self.address(table)) if self._catalog else writer.save(self.place(table))
        except (PySparkException, Py4JJavaError) as error:
            if "Python worker exited unexpectedly" in str(error):
                raise WorkerDiedError(f"table {table}: a Python worker died at work; nothing of this write is visible") from error
            if _CONFLICT.search(str(error)):
                raise concurrent(table) from error
            raise TableError(f"table {table}: the write failed, nothing of it is visible: {root_cause(error)}") from error
        own = self._versions.get(table)
        if own is not None and "userMetadata" in (options or {}):
            self._marks[table] = str((options or {})["userMetadata"])
        # Where others added rows too, what was known does not hold: it is counted when it is asked for.
        if fingerprint is not None and own is not None and own - 1 == before:
            self._outcomes[table] = {other: outcomes for other, outcomes in known.items() if other != fingerprint}
            added = count.outcomes() if count else None
            # Where an executor is lost, what it had counted may be counted twice.
            if added is not None and (not self._may_lose_executors or sum(added.values()) == self._rows_of(table, own)):
                self._outcomes[table][fingerprint] = Counter(known.get(fingerprint, {})) + Counter(added)
        return own is not None

    def _rows_of(self, table: str, version: int) -> int:
        """Rows that a version has added, as Delta counts them; -1 where it does not say it."""
        newest = self.history(table, 1).select("version", F.col("operationMetrics")["numOutputRows"]).collect()[0]
        return int(newest[1]) if newest[0] == version and newest[1] is not None else -1

    def history(self, table: str, newest: int | None = None) -> DataFrame:
        """The table's commits, the newest first: all that are kept, or so many."""
        commits: DataFrame = self._delta(table).history(newest)
        return commits

    def drop(self, table: str, fingerprint: str) -> None:
        """Drop all rows of a fingerprint: its whole partition, so no file is written anew."""
        if self.exists(table) and self.read(table, fingerprint).head(1):
            self._forget(table)
            self._delta(table).delete(F.col("fingerprint") == fingerprint)

    def files(self, table: str) -> tuple[int, int]:
        """The table's live files: their number, and their bytes."""
        row = self.spark.sql(f"DESCRIBE DETAIL {self.address(table)}").select("numFiles", "sizeInBytes").collect()[0]
        return int(row.numFiles), int(row.sizeInBytes)

    def compact(self, table: str) -> None:
        """Write small files anew as large ones; no row changes, and streams are given none again."""
        self._forget(table)
        self._delta(table).optimize().executeCompaction()

    def vacuum(self, table: str, hours: int) -> None:
        """Delete files that no version of the last `hours` needs."""
        self._forget(table)
        self._delta(table).vacuum(float(hours))

    def version_time(self, table: str, version: int) -> datetime:
        """When a version was committed."""
        row = self.history(table).where(F.col("version") == version).select("timestamp").collect()
        return row[0][0].astimezone(UTC) if row else datetime.now(UTC)

    def drop_errors(self, table: str, fingerprint: str) -> int:
        """Delete the error rows of a fingerprint; their number. Not those that another try would refuse again by rule."""
        is_error = (F.col("fingerprint") == fingerprint) & (F.col("outcome") == ERROR) & (F.col("code") != CONTAMINATED)
        count = self.read_all(table).where(is_error).count()
        if count:
            self._forget(table)
            self._delta(table).delete(is_error)
        return count

    def refresh_views(self, fingerprints: Mapping[str, str]) -> None:
        """Session views current_<table>: the ok rows of the active fingerprints."""
        for table, fingerprint in fingerprints.items():
            if table in TABLES and self.exists(table):
                self.read_ok(table, fingerprint).createOrReplaceTempView(f"current_{table}")


def root_cause(error: BaseException) -> str:
    """The last line that says why, of a Spark or Java error, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    product = [line for line in lines if line.startswith("entropylong.errors.")]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by:")]
    # Py4J's first line names a method of its own; the Java exception follows after a colon.
    java = [line.removeprefix(": ") for line in lines if line.startswith(": ")]
    chosen = (product[-1:] or causes[-1:] or java[:1] or lines[:1] or [type(error).__name__])[0]
    return re.sub(r"^(?:[\w$]+\.)+[\w$]+: ", "", chosen)[:300]
