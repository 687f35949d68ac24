"""Cells in Spark: every (anchor, chunk) reading of the current roots, joined once, judged once.

Packing, the figures and `inspect` all start from here, so they cannot disagree about what was accepted.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.config import Accept, Config
from entropylong.stages import Frames
from entropylong.verification.acceptance import RANDOM, RETRIEVED, SAME_ROOT, Cells, Rule, judge

_CELL = (
    "root_id STRING, chunk_id BIGINT, position INT, kind STRING, rank INT, score FLOAT, entropy FLOAT, nll FLOAT, "
    "entropy_with FLOAT, nll_with FLOAT, copy_len INT"
)
_JUDGED = _CELL + ", gain DOUBLE, excess_gain DOUBLE, passes_paper BOOLEAN, passes_specific BOOLEAN, accepted BOOLEAN"


def judged_cells(frames: Frames, config: Config) -> DataFrame:
    """Cells with gains and verdicts. Executors: pure numpy, one root at a time."""
    rule = acceptance_rule(config.accept)

    def run(table: pa.Table) -> pa.Table:
        cells = Cells(
            position=table["position"].to_numpy(),
            kind=np.array(table["kind"].to_pylist(), dtype=object),
            copy_len=table["copy_len"].to_numpy(),
            **{name: table[name].to_numpy().astype(np.float64) for name in ("entropy", "nll", "entropy_with", "nll_with")},
        )
        verdicts = judge(cells, rule)
        for name, values in vars(verdicts).items():
            # Without a control there is no excess: null, not NaN, which SQL would count as the largest number.
            table = table.append_column(name, pa.array(values, from_pandas=True))
        return table

    return cells(frames, config).groupBy("root_id").applyInArrow(run, _JUDGED)


def acceptance_rule(accept: Accept) -> Rule:
    """The pure rule of a config's `accept` section."""
    return Rule(**accept.model_dump())


def cells(frames: Frames, config: Config) -> DataFrame:
    """Readings of the planned pairs at the current anchors, with rank and score where the anchor retrieved the chunk.

    Gains are shared by all settings; what another one read beyond this one's plan is left out.
    """
    anchors = frames["anchors"].select("root_id", F.explode("anchors").alias("a"))
    anchors = anchors.select("root_id", "a.position", "a.entropy", "a.nll")
    hits = frames["candidates"].select("root_id", "position", F.explode("hits").alias("hit"))
    hits = hits.select("root_id", "position", "hit.chunk_id", "hit.rank", "hit.score")
    readings = (
        frames["gains"]
        .select("pair_id", F.explode("readings").alias("r"))
        .select("pair_id", F.col("r.position").alias("position"), "r")
        # Two plans may have read one position of one pair: the same measurement but for rounding; one is kept, always the same.
        .groupBy("pair_id", "position")
        .agg(F.min("r").alias("r"))
        .select("pair_id", "r.*")
    )
    measured = frames["pairs"].select("pair_id", "root_id", "chunk_id", F.col("kind").alias("planned_as")).join(readings, "pair_id")
    kind = (
        F.when(F.col("rank").isNotNull(), RETRIEVED)
        .when(F.col("planned_as") == RANDOM, RANDOM)
        .otherwise(SAME_ROOT)
    )  # fmt: skip
    columns = [c.strip().split(" ")[0] for c in _CELL.split(",")]
    planned = F.lit(True) if config.verify.scope == "all" else F.col("kind") != SAME_ROOT
    return (
        measured.join(anchors, ["root_id", "position"], how="inner")
        .join(hits, ["root_id", "position", "chunk_id"], how="left")
        .withColumn("kind", kind)
        .where(planned)
        .select(*columns)
    )
