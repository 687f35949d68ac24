"""Recipe noverify: what verification is worth, as the paper's ablation asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropylong.config.schema import AcceptConfig
from entropylong.packing.recipes.base import GroupedRecipe
from entropylong.packing.recipes.verified import LINK
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def by_rank(judged: DataFrame, accept: AcceptConfig) -> DataFrame:
    """The same roots, per root the same number of contexts, taken by (rank, -score) without Stage 3 (paper, ablation).

    Chunks of one text are one pair of the root, and will be one context. The copy limit holds here too. A link is each anchor that
    retrieved a chosen chunk; its gain is reported, not used.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    counts = judged.where("accepted").groupBy("root_id").agg(F.countDistinct("pair_id").alias("wanted"))
    retrieved = judged.where(F.col("kind") == ReadingKind.RETRIEVED)
    if accept.max_copy_tokens is not None:
        retrieved = retrieved.where(F.col("copy_len") <= accept.max_copy_tokens)
    order = Window.partitionBy("root_id").orderBy("best", "pair_id")
    chosen = (
        retrieved.groupBy("root_id", "pair_id")
        .agg(F.min(F.struct("rank", -F.col("score"), "chunk_id")).alias("best"))
        .withColumn("place", F.row_number().over(order))
        .join(counts, "root_id", how="inner")
        .where(F.col("place") <= F.col("wanted"))
    )
    return retrieved.join(chosen, ["root_id", "pair_id"], how="left_semi").select(*LINK)


RECORD = GroupedRecipe(
    name="noverify",
    text="Ablation: the roots of the verified recipe, each with as many contexts as were verified for it, taken by rank of "
    "retrieval. No link was verified.",
    links=by_rank,
)
