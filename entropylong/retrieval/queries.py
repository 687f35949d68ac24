"""Roots with their queries and the hashes of their own chunks, as both ways to search and the choice of controls read them."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.config.schema import ChunksConfig
from entropylong.core.context import Frames, StageContext
from entropylong.core.udf import Row, Rows
from entropylong.corpus.chunking import chunk_text
from entropylong.corpus.selection import is_chosen, root_doc_id
from entropylong.utils.hashing import xxhash64

# Name of the frame that `own_of_roots` gives, among the inputs of a stage.
OWN = "own"


def keys_of_queries(row: Row) -> Rows:
    """Of a root with its queries."""
    return [{"root_id": row["root_id"], "position": query["position"]} for query in row["queries"]]


def own_hashes(text: str, rule: ChunksConfig) -> list[int]:
    """Hashes of the texts of a document's own chunks: what its roots never retrieve, and neither any copy of it."""
    own = chunk_text(text, unit=rule.unit, target_chars=rule.target_chars, max_chars=rule.max_chars)
    return [xxhash64(chunk) for chunk in own]


def own_of(row: Row, rule: ChunksConfig) -> list[int]:
    """The same of a root with columns of `own_of_roots`."""
    return row["own"] or [] if row.get("text") is None else own_hashes(row["text"], rule)


def own_of_roots(ctx: StageContext, roots: DataFrame, frames: Frames) -> DataFrame:
    """(root_id, own) of roots: hashes of the texts of their documents' chunks, without reading a text.

    Documents of sources that are not searched have no chunks. Where there are such, `text` is theirs, to be cut on the executors.
    """
    config = ctx.config
    searched = config.sources_with_role("corpus")
    unsearched = [source for source in config.sources_with_role("root") if source not in searched]
    documents = roots.select("root_id").distinct().withColumn("doc_id", root_doc_id(config))
    hashes = frames["chunks"].select("doc_id", "text_hash")
    own = documents.join(hashes, "doc_id", how="left").groupBy("root_id", "doc_id").agg(F.collect_set("text_hash").alias("own"))
    if unsearched:
        texts = frames["documents"].where(F.col("source").isin(unsearched)).select("doc_id", "text")
        own = own.join(texts, "doc_id", how="left")
    return own.drop("doc_id")


def with_queries(frames: Frames) -> DataFrame:
    """Roots with their queries and their own chunks."""
    queries = frames["anchors"].groupBy("root_id").agg(F.collect_list(F.struct("position", "vector")).alias("queries"))
    return queries.join(frames[OWN], "root_id", how="inner")


def anchor_positions(ctx: StageContext, frames: Frames) -> DataFrame:
    """(root_id, position) of the anchors of chosen roots."""
    return frames["anchors"].where(is_chosen(ctx)).select("root_id", F.explode("anchors.position").alias("position"))
