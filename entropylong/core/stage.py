"""What a stage declares of itself, and the context that its function gets.

`run`, `status`, `--describe` and the docs all read these declarations. A stage gets DataFrames and gives a DataFrame; it
never opens a table. Adding one: a declaration and a function here-like in its area, a schema, a job file, a test file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from pyspark.sql import DataFrame

from entropylong.core.context import Context, Frames
from entropylong.storage.schemas import NAMES


class Kind(Enum):
    """How the runner drives a stage."""

    FILES = "input files, unit by unit"
    STREAM = "Structured Streaming, row by row"
    BATCH = "batch, in units of roots"
    WHOLE = "one recompute over a pinned snapshot"


def own_keys(ctx: Context, rows: DataFrame) -> DataFrame:
    """Driving rows as refused rows: the columns that name them."""
    return rows.select(*[name for name in NAMES if name in rows.columns])


def subtract_rows(ctx: Context, rows: DataFrame, done: DataFrame, key: Sequence[str]) -> DataFrame:
    """Driving rows whose key is not done."""
    return rows.join(done, list(key), how="left_anti")


_COUNTED = {"origin": "files", "doc_id": "documents", "chunk_id": "chunks", "root_id": "roots", "position": "anchors"}


@dataclass(frozen=True)
class Stage:
    """One step of the data flow: a stage name and the one table it writes.

    Attributes:
        name: the stage name that users type; two steps may share it (search writes two tables).
        version: raise it when the stage's result changes; it is hashed.
        reads: input tables; the first one drives: its new rows are the work.
        writes: output table (or "index").
        driving: ok rows of the driving table -> rows to work on (filters, explodes). Must keep the key.
        keys_todo, keys_done: driving rows, and (context, rows of the output table, refused ones too) -> rows with the key.
        subtract: (context, driving rows, keys that are done, key) -> driving rows that are still to do.
        refusal: (context, driving rows) -> the rows of the output that refuse them, but for their outcome.
        selects: semantic keys that decide which rows are computed, but no value in them: they are not hashed.
        choice: what else than its input's fingerprint decides which rows `driving` lets through (a stream's checkpoint
            belongs to it).
        build: (context, frames) -> output rows; frames[reads[0]] holds the rows to work on.
        key: columns that both `driving` and `keys_done` give.
        needs_whole: tables that must be finished before it starts, as its rows would not change when more of them arrives.
        only_unmeasured: its keys are what no earlier plan measured; to have none is no mistake as long as it is fed at all.
        config: dotted semantic keys that its result depends on.
        upstream: tables whose fingerprints are hashed in (default: all of `reads`).
        beside: further tables that its rows under the same fingerprint go to, on the way to what it writes.
        models: "model" and/or "encoder", if it runs them.
    """

    name: str
    version: int
    kind: Kind
    reads: tuple[str, ...]
    writes: str
    key: tuple[str, ...]
    config: tuple[str, ...]
    build: Callable[[Context, Frames], DataFrame]
    driving: Callable[[Context, Frames], DataFrame] = lambda ctx, frames: next(iter(frames.values()))
    keys_todo: Callable[[DataFrame], DataFrame] = lambda frame: frame
    keys_done: Callable[[Context, DataFrame], DataFrame] = lambda ctx, frame: frame
    subtract: Callable[[Context, DataFrame, DataFrame, Sequence[str]], DataFrame] = subtract_rows
    refusal: Callable[[Context, DataFrame], DataFrame] = own_keys
    selects: tuple[str, ...] = ()
    choice: Callable[[Context], object] = lambda ctx: None
    needs_whole: tuple[str, ...] = ()
    only_unmeasured: bool = False
    upstream: tuple[str, ...] | None = None
    models: tuple[str, ...] = ()
    purpose: str = ""
    beside: tuple[str, ...] = ()

    @property
    def counted(self) -> str:
        """What its keys stand for, in a word for people; "" where it makes one thing as a whole."""
        if self.kind is Kind.WHOLE:
            return ""
        return _COUNTED[self.key[-1]] if "pair_id" not in self.key else "readings"

    @property
    def hashed_upstream(self) -> tuple[str, ...]:
        return self.reads if self.upstream is None else self.upstream
