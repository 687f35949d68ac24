"""Which chunks become a root's contexts: one producer a recipe, all over the same judged cells. Spark, built-ins only.

A producer gives dependencies (root_id, chunk_id, position, gain, excess_gain); packing does the rest alike.
"""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from entropylong.config.schema import Accept
from entropylong.verification.rules.acceptance import RETRIEVED

_COLUMNS = ("root_id", "chunk_id", "position", "gain", "excess_gain")


def verified(judged: DataFrame, accept: Accept) -> DataFrame:
    """The accepted cells: the paper's method."""
    return judged.where("accepted").select(*_COLUMNS)


def noverify(judged: DataFrame, accept: Accept) -> DataFrame:
    """The same roots, per root the same number of contexts, taken by (rank, -score) without Stage 3 (paper, ablation).

    Chunks of one text are one pair of the root, and will be one context. The copy limit holds here too. A link is each anchor that
    retrieved a chosen chunk; its gain is reported, not used.
    """
    counts = judged.where("accepted").groupBy("root_id").agg(F.countDistinct("pair_id").alias("wanted"))
    retrieved = judged.where(F.col("kind") == RETRIEVED)
    if accept.max_copy_tokens is not None:
        retrieved = retrieved.where(F.col("copy_len") <= accept.max_copy_tokens)
    by_rank = Window.partitionBy("root_id").orderBy("best", "pair_id")
    chosen = (
        retrieved.groupBy("root_id", "pair_id")
        .agg(F.min(F.struct("rank", -F.col("score"), "chunk_id")).alias("best"))
        .withColumn("place", F.row_number().over(by_rank))
        .join(counts, "root_id", how="inner")
        .where(F.col("place") <= F.col("wanted"))
    )
    return retrieved.join(chosen, ["root_id", "pair_id"], how="left_semi").select(*_COLUMNS)


# Permuted is swapped where it is packed.
RECIPES: dict[str, Callable[[DataFrame, Accept], DataFrame]] = {"verified": verified, "noverify": noverify, "permuted": verified}


# Of which a root with contexts behind it is the unit.
GROUPED = ("verified", "noverify", "permuted")
