"""What a stage function may use besides its DataFrames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession

from entropylong.config import Config
from entropylong.core.udf import Meter
from entropylong.models.cache import WorkerModel
from entropylong.models.shape import ModelShape

if TYPE_CHECKING:
    from entropylong.core.handles import Excluded, IndexHandle


ROWS_A_TASK = 16
TASKS_A_CORE = 4
# Of English text, to guess what a text will cost before it is tokenised.
CHARS_A_TOKEN = 4

Frames = Mapping[str, DataFrame]


@dataclass(frozen=True)
class StageContext:
    """What a stage function may use besides its DataFrames. Lives on the driver; only the models' names travel.

    Attributes:
        cores: tasks that run at once.
        meter: adds up where the seconds of a step's tasks go.
        shape: of the causal LM, to tell what a sequence will cost.
        query_model: the model that predicts a document's query, if the recipe has one.
        excluded: the evaluation sets that no chunk and no root may share text with, if there are any.
        parallelism: tasks to cut this unit's work into.
        keys: of this unit's work.
        fingerprints: of each table, as far as they are resolved.
        root_threshold: largest hash of a root that `roots` chooses, or None before it is resolved.
        index: the index files that searches use, once they exist.
        cached: frames that plans of a step read more than once, until `release`.
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
    parallelism: int = 1
    keys: int = 0
    fingerprints: dict[str, str] = field(default_factory=dict)
    root_threshold: int | None = None
    index: IndexHandle | None = None
    cached: list[DataFrame] = field(default_factory=list)

    def sized(self, keys: int) -> StageContext:
        """The context of a unit of so many keys: several tasks a core, so that uneven work evens out and progress is
        seen, but never tasks (and files) of a handful of rows."""
        tasks = min(max(-(-keys // ROWS_A_TASK), min(self.cores, keys)), TASKS_A_CORE * self.cores)
        return replace(self, parallelism=max(1, tasks), keys=keys)

    def cost(self, tokens: Column) -> Column:
        """What forwarding a causal sequence costs, in tokens without attention."""
        return tokens * (1 + tokens / (2 * self.shape.attention_span))

    def cache(self, frame: DataFrame) -> DataFrame:
        """The frame, computed once however often a plan reads it."""
        self.cached.append(frame.persist(StorageLevel.DISK_ONLY))
        return self.cached[-1]

    def release(self) -> None:
        """Give back what was kept; what is written by now needs it no more."""
        while self.cached:
            self.cached.pop().unpersist()

    def with_(self, **changes: object) -> StageContext:
        return replace(self, **changes)  # type: ignore[arg-type]
