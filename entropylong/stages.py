"""What a stage declares of itself, and the context that its function gets.

`run`, `status`, `--describe` and the docs all read these declarations. A stage gets DataFrames and gives a DataFrame; it
never opens a table. Adding one: a declaration and a function here-like in its area, a schema, a job file, a test file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession

from entropylong.config import Config
from entropylong.models.cache import WorkerModel
from entropylong.models.shape import ModelShape
from entropylong.tables.schemas import NAMES
from entropylong.udf import Meter

if TYPE_CHECKING:
    from entropylong.corpus.exclusion import Excluded
    from entropylong.retrieval.index import IndexHandle


class Kind(Enum):
    """How the runner drives a stage."""

    FILES = "input files, unit by unit"
    STREAM = "Structured Streaming, row by row"
    BATCH = "batch, in units of roots"
    WHOLE = "one recompute over a pinned snapshot"


ROWS_A_TASK = 16
TASKS_A_CORE = 4
# Of English text, to guess what a text will cost before it is tokenised.
CHARS_A_TOKEN = 4

Frames = Mapping[str, DataFrame]


@dataclass(frozen=True)
class Context:
    """What a stage function may use besides its DataFrames. Lives on the driver; only the models' names travel.

    Attributes:
        cores: tasks that run at once.
        meter: adds up where the seconds of a step's tasks go.
        shape: of the causal LM, to tell what a sequence will cost.
        query_model: the model that predicts a document's query, of recipe quest, if one does.
        excluded: the evaluation sets that no chunk and no root may share text with, if there are any.
        say: where a stage tells what it decided.
        parallelism: tasks to cut this unit's work into.
        fingerprints: of each table, as far as they are resolved.
        root_threshold: largest hash of a root that `roots` chooses, or None before it is resolved.
        index: the index files that searches use, once they exist.
        kept: frames that plans of a step read more than once, until `release`.
    """

    config: Config
    spark: SparkSession
    causal_lm: WorkerModel
    encoder: WorkerModel
    cores: int
    meter: Meter
    shape: ModelShape
    query_model: WorkerModel | None = None
    excluded: Excluded | None = None
    say: Callable[[str], None] = print
    parallelism: int = 1
    fingerprints: dict[str, str] = field(default_factory=dict)
    root_threshold: int | None = None
    index: IndexHandle | None = None
    kept: list[DataFrame] = field(default_factory=list)

    def sized(self, keys: int) -> Context:
        """The context of a unit of so many keys: several tasks a core, so that uneven work evens out and progress is
        seen, but never tasks (and files) of a handful of rows."""
        tasks = min(max(-(-keys // ROWS_A_TASK), min(self.cores, keys)), TASKS_A_CORE * self.cores)
        return replace(self, parallelism=max(1, tasks))

    def cost(self, tokens: Column) -> Column:
        """What forwarding a causal sequence costs, in tokens without attention."""
        return tokens * (1 + tokens / (2 * self.shape.attention_span))

    def keep(self, frame: DataFrame) -> DataFrame:
        """The frame, computed once however often a plan reads it."""
        self.kept.append(frame.persist(StorageLevel.DISK_ONLY))
        return self.kept[-1]

    def release(self) -> None:
        """Give back what was kept; what is written by now needs it no more."""
        while self.kept:
            self.kept.pop().unpersist()

    def with_(self, **changes: object) -> Context:
        return replace(self, **changes)  # type: ignore[arg-type]


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
