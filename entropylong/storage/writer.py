"""Appends of one work to one table, numbered: of two runs that do the same work the second is refused, whatever it has read."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.errors import ConcurrentRunError
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import TABLES


class Tables(Protocol):
    """What a writer asks of the store."""

    @property
    def spark(self) -> SparkSession: ...
    def create(self, table: str) -> None: ...
    def is_new(self, table: str) -> bool: ...
    def append(self, table: str, frame: DataFrame, fingerprint: str | None, options: Mapping[str, Any]) -> bool: ...
    def history(self, table: str, newest: int | None = None) -> DataFrame: ...


class Writer:
    """The right of one run to add the rows of a work, which it loses as soon as another run adds some.

    Delta keeps the number of the last transaction of each application id. Of two transactions of one id at the same time it
    refuses the second, and a number that it knows it skips without a word. The numbers here count up from the last one that
    stands in the table's history. So a writer is made *before* what is left of its work is read: whatever another run commits
    after that makes the next append fail, at the price of a number and not of a comparison of keys.

    Where the history no longer goes back to the table's first commit, what this work has committed may be gone from it. Then the
    number is claimed by an append of no rows: two runs that began at different versions would not refuse each other else.

    Args:
        store: Store of the table; the table is made if it is not there.
        table: Table to append to.
        fingerprint: Fingerprint of all rows.
        work: Name of the work, the same in each run that does it; with the fingerprint it is Delta's application id.

    Attributes:
        number: Number of the last append of this work, by whichever run; 0 where there is none.
        last: Label of that append, by which no other append of any table goes; "" where there is none.
        may_have_rows: Whether rows of it may stand in the table; not in a table that this run has just made.
    """

    def __init__(self, store: Tables, table: str, fingerprint: str, work: str) -> None:
        store.create(table)
        self.table, self.number, self.last, self.may_have_rows = table, 0, "", not store.is_new(table)
        self._store, self._fingerprint, self._work = store, fingerprint, f"{work}-{fingerprint}"
        if not self.may_have_rows:
            return
        for most in (1, None):
            label, first, newest = self._history(most)
            if label or first == 0:
                self.last, self.number = label, int(label.split(" ")[1]) if label else 0
                return
        self.number = newest  # no number passes the version of its commit
        self.append(local_frame(store.spark, [], TABLES[table].struct))

    def _history(self, most: int | None) -> tuple[str, int, int]:
        """The last label of this work, the first version and the newest one of the table's history, or of its newest part."""
        ours = F.col("userMetadata").startswith(f"{self._work} ")
        label = F.max(F.when(ours, F.struct("version", "userMetadata")))["userMetadata"]
        found, first, newest = self._store.history(self.table, most).agg(label, F.min("version"), F.max("version")).collect()[0]
        return found or "", int(first), int(newest)

    def append(self, frame: DataFrame) -> None:
        """One append: good and refused rows together.

        Raises:
            TableError: the write failed (disk, permission, a violated constraint); nothing of it is visible.
            WorkerDiedError: a Python worker died at it; nothing of it is visible.
            ConcurrentRunError: another run has added rows of this work meanwhile; nothing of it is visible.
        """
        number = self.number + 1
        label = f"{self._work} {number} {uuid.uuid4().hex}"
        options = {"txnAppId": self._work, "txnVersion": number, "userMetadata": label}
        if not self._store.append(self.table, frame, self._fingerprint, options) and not self._is_committed(label):
            raise concurrent(self.table)
        self.number, self.last = number, label

    def _is_committed(self, label: str) -> bool:
        """Whether there is a commit of it, where the session's own last commit is not noted."""
        return bool(self._store.history(self.table).where(F.col("userMetadata") == label).head(1))


def concurrent(table: str) -> ConcurrentRunError:
    """The error of the second of two runs that do the same work."""
    return ConcurrentRunError(
        f"table {table}: a run on another machine commits to the same rows; nothing of this write is visible; "
        "let one run finish, then run the same command again"
    )
