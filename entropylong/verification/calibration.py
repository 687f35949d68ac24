"""What a screen saved and what it cost: its recall on roots that were measured exactly all the same. Spark, built-ins only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from scipy.stats import binomtest

from entropylong.storage.schemas import OK
from entropylong.utils.hashing import share_threshold
from entropylong.verification.screens import SCREENS
from entropylong.verification.screens.base import Screen


def recall_bound(true_positives: int, positives: int) -> float:
    """Lower 95 % bound of a share (Wilson, one-sided)."""
    return float(binomtest(true_positives, positives, alternative="greater").proportion_ci(0.95, method="wilson").low)


def screen_metrics(gains: DataFrame, judged: DataFrame, screen: Screen) -> Mapping[str, float]:
    """Figures of a screen from committed rows.

    Args:
        gains: all rows of `gains` under its fingerprint that this selection wrote.
        judged: judged readings of the current roots.
        screen: the screen.

    Returns:
        `screen_positives` (dependencies of the held-out roots), `screen_recall` of them with `screen_recall_low`, and
        `screen_saving`: the share of the forwarded tokens of the other roots' candidates that it saved, its own cost included.
        What cannot be known yet is left out.
    """
    screened_readings = F.expr("filter(readings, r -> r.screen_gain IS NOT NULL)")
    retrieved = F.transform(screened_readings, lambda r: r["position"])
    screened_pairs = (
        gains.where(F.col("kind") == "candidate")
        .withColumn("screened", F.transform(screened_readings, lambda r: r["screen_gain"]))
        .where(F.size("screened") > 0)
        .select(
            "root_id",
            "chunk_id",
            "outcome",
            (F.array_max("screened") >= screen.min_gain).alias("proposed"),
            (F.col("n_context_tokens") + F.array_max("readings.position") + 1).cast("double").alias("exact"),
            _forwarded(screen, F.array_min(retrieved), F.array_max(retrieved)).cast("double").alias("spent"),
            (F.xxhash64(F.lit(screen.seed).cast("bigint"), F.lit("screen"), "root_id") <= share_threshold(screen.sample)).alias(
                "is_sample"
            ),
        )
    )
    held_out = screened_pairs.where("is_sample").join(
        judged.where("accepted").select("root_id", "chunk_id", "position"), ["root_id", "chunk_id"], how="inner"
    )
    positives, true_positives = held_out.agg(F.count(F.lit(1)), F.count_if("proposed")).collect()[0]
    others = screened_pairs.where(~F.col("is_sample")).agg(
        F.sum("exact"), F.sum(F.when(F.col("outcome") == OK, F.col("exact")).otherwise(0.0)), F.sum("spent")
    )
    exact, confirmed, screened = others.collect()[0]
    figures: dict[str, float] = {"screen_positives": positives}
    if positives:
        figures |= {"screen_recall": true_positives / positives, "screen_recall_low": recall_bound(true_positives, positives)}
    if exact:
        figures["screen_saving"] = 1 - (confirmed + screened) / exact
    return figures


def _forwarded(screen: Screen, first: Column, last: Column) -> Column:
    """Return the tokens that the screen forwarded for a candidate that was retrieved at `first` to `last`."""
    reading = SCREENS[screen.kind].reading
    if reading is None or not reading.needs_model:
        return F.lit(0)
    return cast(Column, reading.tokens(screen, F.col("n_context_tokens"), last + 1, last + 1 - first, F.least))
