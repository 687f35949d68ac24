"""The contract of a stage: what it declares of itself, and the methods by which its driver asks it.

`run`, `status`, `--describe` and the docs all read these declarations. A stage gets DataFrames and gives a DataFrame; it
never opens a table. Three kinds: `RowStage` computes rows from rows, `FileStage` reads input files, `WholeStage` makes one
thing from a pinned snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from entropylong.config import Config
from entropylong.core.batches import CORE_BATCH_BYTES, MODEL_PART
from entropylong.core.context import Frames, StageContext
from entropylong.storage.artifacts import Artifact, Registry
from entropylong.storage.schemas import NAMES, TABLES
from entropylong.storage.store import Store
from entropylong.storage.workspace import Workspace


class StageKind(StrEnum):
    """How a stage takes its work, in words for people."""

    FILES = "input files, unit by unit"
    STREAM = "Structured Streaming, row by row"
    BATCH = "batch, in units of roots"
    WHOLE = "one recompute over a pinned snapshot"


class Driver(StrEnum):
    """The driver of a stage: a module of `pipeline/drivers`."""

    FILES = "files"
    STREAMS = "streams"
    UNITS = "units"
    WHOLE = "whole"
    INDEX = "index"
    SEARCH = "partitioned_search"


class Resource(StrEnum):
    """What the tasks of a stage spend most of their time on."""

    CPU = "cpu"
    GPU = "gpu"


class State(Protocol):
    """What a stage may ask of the pipeline's state while its artifact is resolved."""

    @property
    def config(self) -> Config: ...
    @property
    def context(self) -> StageContext: ...
    @property
    def store(self) -> Store: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def workspace(self) -> Workspace: ...
    @property
    def new_generation(self) -> bool: ...
    def fingerprint(self, table: str) -> str | None: ...
    def frames(self, stage: Stage) -> Frames: ...
    def resolve_roots(self) -> bool: ...
    def known_content(self, fingerprint: str, decided_by: str, tables: Sequence[str], find: Callable[[], str]) -> str: ...


class Stage(ABC):
    """One step of the data flow: a stage name and the one table it writes. One instance, without state, per step.

    Attributes:
        name: Stage name that users type. Two steps may share it (search writes two tables).
        version: Version of the stage's result. It is hashed; raise it when the result changes.
        kind: How it takes its work.
        driver: Driver that does its work.
        reads: Input tables. The new rows of the first one are the work.
        writes: Output table, or "index".
        key: Columns that name a row of work.
        config: Dotted semantic keys that the result depends on.
        purpose: One line for people.
        counted: Plural noun of what its keys name; "" where it makes one thing as a whole.
        models: "model" and/or "encoder", if it runs them.
        resources: What its tasks need.
        selects: Semantic keys that decide which rows are computed, but no value in them; they are not hashed.
        upstream: Tables whose fingerprints are hashed in; None: all of `reads`.
        needs_whole: Tables that must be finished before it starts, as its rows would not change when more of them arrive.
        of_chosen_roots: Tables of `reads` of which it sees only the rows of roots that `roots` chooses.
        beside: Further tables that get rows under the same fingerprint on the way to what it writes.
        when_empty: What to do when nothing feeds it.
        again: Whether a recorded artifact is begun again when its result is gone.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    kind: ClassVar[StageKind]
    driver: ClassVar[Driver]
    reads: ClassVar[tuple[str, ...]]
    writes: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    config: ClassVar[tuple[str, ...]]
    purpose: ClassVar[str]
    counted: ClassVar[str] = ""
    models: ClassVar[tuple[str, ...]] = ()
    resources: ClassVar[Resource] = Resource.CPU
    selects: ClassVar[tuple[str, ...]] = ()
    upstream: ClassVar[tuple[str, ...] | None] = None
    needs_whole: ClassVar[tuple[str, ...]] = ()
    of_chosen_roots: ClassVar[tuple[str, ...]] = ()
    beside: ClassVar[tuple[str, ...]] = ()
    when_empty: ClassVar[str] = ""
    again: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Name in progress and log lines."""
        return self.name

    @property
    def hashed_upstream(self) -> tuple[str, ...]:
        """Tables whose fingerprints are hashed in."""
        return self.reads if self.upstream is None else self.upstream

    @property
    def has_table(self) -> bool:
        """Whether `writes` is a table; an index is files."""
        return self.writes in TABLES

    @property
    def tables(self) -> tuple[str, ...]:
        """All tables that hold rows under its fingerprint."""
        return (*((self.writes,) if self.has_table else ()), *self.beside)

    def batch_bytes(self, ctx: StageContext) -> int:
        """Bytes of input that one commit takes."""
        stated = ctx.config.run.batch_bytes
        return CORE_BATCH_BYTES * ctx.cores if stated == "auto" else stated

    def choice(self, ctx: StageContext) -> object:
        """What else than its input's fingerprint decides which rows are its work; None: nothing."""
        return None

    def input_versions(self, store: Store, recorded: Artifact | None) -> dict[str, int]:
        """Delta versions of the input tables; here the newest ones."""
        return {table: store.version(table) for table in self.reads}

    def pin(self, state: State, config: Mapping[str, Any], upstream: Mapping[str, str]) -> dict[str, Any] | None:
        """What is resolved once and hashed; None while it cannot be resolved."""
        return {}

    def snapshot(self, state: State) -> dict[str, Any] | None:
        """What a run pins when it starts a stage whose `pin` gave None; None: it cannot start yet."""
        return None

    def handles(self, state: State, fingerprint: str) -> Mapping[str, object]:
        """Fields of the context that its artifact gives, once it is resolved."""
        return {}


class RowStage(Stage):
    """A stage that computes rows from rows: by a stream, or in units."""

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Filter or explode the ok rows of the first input table to the rows to work on. They keep the key."""
        return frames[self.reads[0]]

    def keys_todo(self, rows: DataFrame) -> DataFrame:
        """Give driving rows as rows with the key."""
        return rows

    def keys_done(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Give rows of the output table, refused ones too, as rows with the key."""
        return rows

    def subtract(self, ctx: StageContext, rows: DataFrame, done: DataFrame) -> DataFrame:
        """Leave out the driving rows whose key is among those of `keys_done`."""
        return rows.join(done.select(*self.key), list(self.key), how="left_anti")

    def key_counts(self, ctx: StageContext, driving: DataFrame, output: DataFrame | None) -> tuple[int, int]:
        """Count (keys in, keys left), by keys in committed data; None: no row of the output is committed."""
        todo = self.keys_todo(driving).select(*self.key).distinct()
        if output is None:
            return (count := todo.count()), count
        done = self.keys_done(ctx, output).select(*self.key).distinct().withColumn("done", F.lit(1))
        row = todo.join(done, list(self.key), how="left").agg(F.count(F.lit(1)), F.count("done")).collect()[0]
        return int(row[0]), int(row[0] - row[1])

    def refuse(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Give driving rows as the output rows that refuse them, without their outcome: the columns that name them."""
        return rows.select(*[name for name in NAMES if name in rows.columns])

    @abstractmethod
    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Compute the output rows; frames[reads[0]] holds the rows to work on."""


class StreamStage(RowStage):
    """A row-wise stage whose input is read as a stream."""

    kind = StageKind.STREAM
    driver = Driver.STREAMS

    def takes_all(self, ctx: StageContext) -> bool:
        """Whether each ok row of its input is a key of its work, so that nothing has to be read to count them."""
        return type(self).driving is RowStage.driving

    def batch_bytes(self, ctx: StageContext) -> int:
        """Take a part where every row goes through a model, so that a kill does not cost a day."""
        is_slow = self.resources is Resource.GPU and self.takes_all(ctx)
        return max(1, super().batch_bytes(ctx) // (MODEL_PART if is_slow else 1))


class UnitStage(RowStage):
    """A row-wise stage that works in units: of its driving rows' roots, one commit each.

    Attributes:
        cut_by: Column whose values a unit has whole; "": all is one unit.
    """

    kind = StageKind.BATCH
    driver = Driver.UNITS
    cut_by: ClassVar[str] = "root_id"

    def inputs(self, ctx: StageContext, frames: Frames, todo: DataFrame) -> Frames:
        """Join all that units read, once a run: the units are cut out of it by `cut_by`, and no unit reads a table.

        Args:
            ctx: What a stage may use.
            frames: Ok rows of its input tables.
            todo: Driving rows that are left.

        Returns:
            What `build` gets; the first table of `reads` stands for the rows to work on.
        """
        return {**frames, self.reads[0]: todo}

    def n_keys(self) -> Column:
        """Count the keys that a row to work on stands for."""
        return F.lit(1)


class FileStage(Stage):
    """A stage that reads input files, unit by unit."""

    kind = StageKind.FILES
    driver = Driver.FILES


class WholeStage(Stage):
    """A stage that makes one thing from a pinned snapshot.

    Attributes:
        pins_at_start: Whether `snapshot` gives what it is computed from, when a run starts it.
    """

    kind = StageKind.WHOLE
    driver = Driver.WHOLE
    pins_at_start: ClassVar[bool] = False

    def is_present(self, state: State, fingerprint: str) -> bool:
        """Whether what it made is still there; here: its table."""
        return state.store.exists(self.writes)


class RecomputeStage(WholeStage):
    """A whole stage whose result is one append."""

    @abstractmethod
    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Compute the output rows from the input tables and frames["readings"], the judged readings of the chosen roots."""
