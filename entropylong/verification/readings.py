"""Readings in Spark: every (anchor, chunk) reading of the current roots, joined once, judged once.

Packing, the figures and `inspect` all start from here, so they cannot disagree about what was accepted.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.config import Config
from entropylong.core.context import Frames
from entropylong.verification.rules.acceptance import ReadingKind, Readings, judge, verdict_columns
from entropylong.verification.rules.base import Rule

_CELL = (
    "pair_id BIGINT, root_id STRING, chunk_id BIGINT, position INT, kind STRING, rank INT, score FLOAT, entropy FLOAT, nll FLOAT, "
    "entropy_with FLOAT, nll_with FLOAT, copy_len INT"
)


def judged_readings(frames: Frames, config: Config) -> DataFrame:
    """Readings with gains and verdicts. Executors: pure numpy, one root at a time."""
    rule = Rule.of(config.accept)

    def run(table: pa.Table) -> pa.Table:
        readings = Readings(
            position=table["position"].to_numpy(),
            kind=np.array(table["kind"].to_pylist(), dtype=object),
            copy_len=table["copy_len"].to_numpy(),
            **{name: table[name].to_numpy().astype(np.float64) for name in ("entropy", "nll", "entropy_with", "nll_with")},
        )
        verdicts = judge(readings, rule)
        for name, values in verdicts.columns().items():
            # Without a control there is no excess: null, not NaN, which SQL would count as the largest number.
            table = table.append_column(name, pa.array(values, from_pandas=True))
        return table

    return readings(frames).groupBy("root_id").applyInArrow(run, judged_schema())


def judged_schema() -> str:
    """Columns of judged readings, as DDL."""
    return ", ".join([_CELL, *(f"{name} {kind}" for name, kind in verdict_columns().items())])


def readings(frames: Frames) -> DataFrame:
    """Readings of the planned pairs at the planned anchors, with rank and score where the anchor retrieved the chunk.

    Gains are shared by all settings; what another one read beyond this one's plan is left out.
    """
    measured = (
        frames["gains"]
        .select("pair_id", F.explode("readings").alias("r"))
        .select("pair_id", F.col("r.position").alias("position"), "r")
        # Two plans may have read one position of one pair: the same measurement but for rounding; one is kept, always the same.
        .groupBy("pair_id", "position")
        .agg(F.min("r").alias("r"))
        .select("pair_id", "r.*")
    )
    planned = (
        frames["pairs"]
        .select("pair_id", "root_id", "chunk_id", F.col("kind").alias("planned_as"), F.explode("anchors").alias("a"))
        .select("pair_id", "root_id", "chunk_id", "planned_as", "a.*")
    )
    kind = (
        F.when(F.col("rank").isNotNull(), ReadingKind.RETRIEVED)
        .when(F.col("planned_as") == ReadingKind.RANDOM, ReadingKind.RANDOM)
        .otherwise(ReadingKind.SAME_ROOT)
    )  # fmt: skip
    columns = [c.strip().split(" ")[0] for c in _CELL.split(",")]
    return planned.join(measured, ["pair_id", "position"], how="inner").withColumn("kind", kind).select(*columns)
