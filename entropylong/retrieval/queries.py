"""Roots with their queries, as both ways to search read them."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.config.schema import ChunksConfig
from entropylong.core.context import Frames, StageContext
from entropylong.core.udf import Row, Rows
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.selection import is_chosen, root_doc_id
from entropylong.utils.hashing import xxhash64


def keys_of_queries(row: Row) -> Rows:
    """Of a root with its queries."""
    return [{"root_id": row["root_id"], "position": query["position"]} for query in row["queries"]]


def own_hashes(text: str, rule: ChunksConfig) -> list[int]:
    """Hashes of the texts of a document's own chunks: what its roots never retrieve, and neither any copy of it."""
    own = chunk_text(text, unit=rule.unit, target_chars=rule.target_chars, max_chars=rule.max_chars)
    return [xxhash64(chunk) for chunk in own]


def with_queries(ctx: StageContext, frames: Frames) -> DataFrame:
    """Roots with their queries and their document's text."""
    queries = frames["anchors"].groupBy("root_id").agg(F.collect_list(F.struct("position", "vector")).alias("queries"))
    return with_text(ctx, queries, frames)


def with_text(ctx: StageContext, roots: DataFrame, frames: Frames) -> DataFrame:
    """Roots with their document's id and text, from which own chunks are recognised."""
    documents = frames["documents"].select("doc_id", "text")
    return roots.withColumn("doc_id", root_doc_id(ctx.config)).join(documents, "doc_id", how="inner")


def anchor_positions(ctx: StageContext, frames: Frames) -> DataFrame:
    """(root_id, position) of the anchors of chosen roots."""
    return frames["anchors"].where(is_chosen(ctx)).select("root_id", F.explode("anchors.position").alias("position"))
