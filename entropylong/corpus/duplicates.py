"""Which records are refused for what others hold: found once a run, over all that is new and the keys of all that is committed."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from entropylong.config import Config
from entropylong.corpus.selection import is_canary
from entropylong.corpus.sources.canaries import PREFIX
from entropylong.corpus.sources.registry import planted_sources
from entropylong.storage.schemas import DETAIL_CHARS, ERROR, OK, SKIPPED

# What tells records of one run apart, and what of them decides.
NAME, KEYS = ("source", "origin"), ("doc_id", "text_hash", "source", "origin")


def is_reserved(config: Config) -> Column:
    """Whether a record has an id of planted documents and is none: it would never be packed."""
    planted = planted_sources(config)
    return ~F.col("source").isin(planted) & is_canary(F.col("doc_id")) if planted else F.lit(False)


def refuse_reserved(records: DataFrame, config: Config) -> DataFrame:
    """Refuse ids of planted documents to all other records."""
    reason = F.lit(f"ids that begin with {PREFIX} are those of planted documents")
    is_refused = (F.col("outcome") == OK) & is_reserved(config)
    return _refuse(records, is_refused, ERROR, "RESERVED_ID", reason) if planted_sources(config) else records


def duplicates(new: DataFrame, committed: DataFrame | None, config: Config) -> DataFrame:
    """Of new ok records those that are refused: another text of their id stays, or another record of their text.

    What is committed stays, whatever is new. Among new ones no order of arrival matters: of two texts of one id that with the
    smaller hash stays, of two records of one text that of a source which may give roots (or a root would be lost), then that with
    the smaller id. Two shuffles of keys, by id and by text.

    Args:
        new: columns `KEYS`, and any other.
        committed: (doc_id, text_hash) of the ok documents that are committed; None where there are none.
        config: says which sources may give roots.

    Returns:
        The refused ones with the columns of `new`, `winner` (the id whose text stays; null for a conflict), outcome and code.
    """
    rows = new.withColumn("is_new", F.lit(True))
    if committed is not None:
        rows = rows.unionByName(committed.withColumn("is_new", F.lit(False)), allowMissingColumns=True)
    is_new = F.col("is_new")
    by_id, by_text = Window.partitionBy("doc_id"), Window.partitionBy("text_hash", "is_conflict")
    committed_hash = F.min(F.when(~is_new, F.col("text_hash"))).over(by_id)
    is_conflict = is_new & (F.col("text_hash") != F.coalesce(committed_hash, F.min("text_hash").over(by_id)))
    place = F.struct((~F.col("source").isin(config.sources_with_role("root"))).alias("corpus_only"), "doc_id", *NAME)
    first = F.min(F.when(is_new, place)).over(by_text)
    committed_id = F.min(F.when(~is_new, F.col("doc_id"))).over(by_text)
    resolved = rows.withColumn("is_conflict", is_conflict).withColumns(
        {"winner": F.coalesce(committed_id, first["doc_id"]), "is_copy": committed_id.isNotNull() | (place != first)}
    )
    refused = resolved.where(is_new & (F.col("is_conflict") | F.col("is_copy")))
    return refused.select(
        *new.columns,
        F.when(~F.col("is_conflict"), F.col("winner")).alias("winner"),
        F.when(F.col("is_conflict"), ERROR).otherwise(SKIPPED).alias("outcome"),
        F.when(F.col("is_conflict"), "CONFLICTING_ID").otherwise("DUPLICATE_TEXT").alias("code"),
    )


def without_duplicates(records: DataFrame, refused: DataFrame) -> DataFrame:
    """Records, of which those among `refused` (as `duplicates` gave them) are refused."""
    marks = refused.select(*NAME, "winner", F.col("code").alias("why"), F.col("outcome").alias("instead"))
    reason = F.when(F.col("winner").isNull(), "another text stands under this doc_id already").otherwise(
        F.concat(F.lit("same text as "), "winner")
    )
    marked = records.join(marks, list(NAME), how="left")
    return _refuse(marked, F.col("why").isNotNull(), F.col("instead"), F.col("why"), reason).select(*records.columns)


def _refuse(frame: DataFrame, condition: Column, outcome: str | Column, code: str | Column, reason: Column) -> DataFrame:
    detail = F.concat_ws(": ", "origin", reason).substr(1, DETAIL_CHARS)
    return frame.withColumns(
        {
            "outcome": F.when(condition, outcome).otherwise(F.col("outcome")),
            "code": F.when(condition, code).otherwise(F.col("code")),
            "detail": F.when(condition, detail).otherwise(F.col("detail")),
        }
    )
