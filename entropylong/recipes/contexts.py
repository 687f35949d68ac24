"""Which chunks become a root's contexts: one producer a recipe, all over the same judged cells. Spark, built-ins only.

A producer gives dependencies (root_id, chunk_id, position, gain, excess_gain), or contexts without one (position is null: gain says
which goes first where not all fit); packing does the rest alike.
"""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from entropylong.config import Accept
from entropylong.verification.acceptance import RETRIEVED

_COLUMNS = ("root_id", "chunk_id", "position", "gain", "excess_gain")


def verified(judged: DataFrame, accept: Accept) -> DataFrame:
    """The accepted cells: the paper's method."""
    return judged.where("accepted").select(*_COLUMNS)


def noverify(judged: DataFrame, accept: Accept) -> DataFrame:
    """The same roots, per root the same number of chunks, taken by (rank, -score) without Stage 3 (paper, ablation).

    The copy limit holds here too. A link is each anchor that retrieved a chosen chunk; its gain is reported, not used.
    """
    counts = judged.where("accepted").groupBy("root_id").agg(F.countDistinct("chunk_id").alias("wanted"))
    retrieved = judged.where(F.col("kind") == RETRIEVED)
    if accept.max_copy_tokens is not None:
        retrieved = retrieved.where(F.col("copy_len") <= accept.max_copy_tokens)
    by_rank = Window.partitionBy("root_id").orderBy("best", "chunk_id")
    chosen = (
        retrieved.groupBy("root_id", "chunk_id")
        .agg(F.min(F.struct("rank", -F.col("score"))).alias("best"))
        .withColumn("place", F.row_number().over(by_rank))
        .join(counts, "root_id", how="inner")
        .where(F.col("place") <= F.col("wanted"))
    )
    return retrieved.join(chosen, ["root_id", "chunk_id"], how="left_semi").select(*_COLUMNS)


def permuted(judged: DataFrame, accept: Accept) -> DataFrame:
    """The verified arm's roots and contexts, each root with those of another that has about as many.

    Roots in the order of how many contexts they have (of equal ones, by hash) take those of the next; the last those of the first.
    What is verified for its new root too is left out: there the link would still be whole. Spread over a sequence that holds both
    roots, contexts stand before their own root all the same: an arm without links needs pack.layout grouped.
    """
    contexts = verified(judged, accept).groupBy("root_id", "chunk_id").agg(F.max("gain").alias("gain"))
    by_size = Window.orderBy("contexts", F.xxhash64("root_id"), "root_id")
    roots = contexts.groupBy("root_id").agg(F.count(F.lit(1)).alias("contexts")).withColumn("next", F.lead("root_id").over(by_size))
    first = F.first("root_id").over(by_size.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    given = roots.select(F.col("root_id").alias("to"), F.coalesce("next", first).alias("root_id"))
    moved = contexts.join(given, "root_id", how="inner").select(F.col("to").alias("root_id"), "chunk_id", "gain")
    unlinked = moved.join(contexts.select("root_id", "chunk_id"), ["root_id", "chunk_id"], how="left_anti")
    nothing = F.lit(None)
    return unlinked.select(
        "root_id", "chunk_id", nothing.cast("int").alias("position"), "gain", nothing.cast("double").alias("excess_gain")
    )


RECIPES: dict[str, Callable[[DataFrame, Accept], DataFrame]] = {"verified": verified, "noverify": noverify, "permuted": permuted}
