"""Recipe quest: documents that would be found by the same query (Quest, ICLR 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from entropylong.packing.recipes.base import AS_MANY_TOKENS, DocumentRunRecipe
from entropylong.packing.recipes.keywords import representative

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from entropylong.core.context import Frames, StageContext

# Of the smallest keyword groups this share comes twice as early, so that they are not drowned by the large ones.
_OVERSAMPLED = 0.2


def of_one_keyword(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """Documents of one keyword, each once: filed under a keyword of the query that is predicted for it (Quest)."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    from entropylong.packing.recipes import shared

    filed = _filed(ctx, shared.without_excluded(ctx, frames["documents"]))
    room = shared.sequence_room(ctx)
    by_hash = Window.partitionBy("keyword").orderBy(shared.hash_place(ctx, F.col("doc_id")), "doc_id")
    size = F.size("ids") + F.lit(len(shared.separator_ids(ctx)))
    before = F.coalesce(F.sum(size).over(by_hash.rowsBetween(Window.unboundedPreceding, -1)), F.lit(0))
    runs = (
        shared.encoded(ctx, frames["documents"].join(filed, "doc_id", how="left_semi"), "doc_id")
        .join(filed, "doc_id", how="inner")
        .withColumn("part", (before / F.lit(room)).cast("int"))
        .withColumn("at", F.row_number().over(by_hash))
        .groupBy("keyword", "part")
        .agg(F.sort_array(F.collect_list(F.struct("at", shared.whole_document().alias("piece")))).alias("ordered"))
        .where(F.size("ordered") > 1)
    )
    members = filed.groupBy("keyword").agg(F.count(F.lit(1)).alias("members")).where("members > 1")
    small = members.agg(F.percentile("members", F.lit(_OVERSAMPLED))).collect()[0][0] or 0
    name = F.concat_ws("#", "keyword", "part")
    place = shared.hash_place(ctx, name) * F.when(F.col("members") <= small, 0.5).otherwise(1.0)
    return runs.join(members, "keyword", how="inner").select(
        name.alias("document_run"), place.alias("place"), F.col("ordered.piece").alias("pieces")
    )


def _filed(ctx: StageContext, documents: DataFrame) -> DataFrame:
    """(doc_id, keyword). Executors: RAKE, after the query model if one is named."""
    from entropylong.models.cache import load
    from entropylong.packing.recipes.shared import map_rows

    seed, model, prompt = ctx.config.seed, ctx.query_model, ctx.config.quest.prompt

    def file(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        texts = [row["text"] for row in rows]
        queries = texts if model is None else load(model).predict(texts, prompt)
        for row, query in zip(rows, queries, strict=True):
            if keyword := representative(query, row["doc_id"], seed):
                yield {"doc_id": row["doc_id"], "keyword": keyword}

    return ctx.cache(map_rows(documents.select("doc_id", "text"), file, "doc_id STRING, keyword STRING"))


RECORD = DocumentRunRecipe(
    name="quest",
    text=f"Baseline Quest: documents that share a keyword of the query predicted for them; {AS_MANY_TOKENS}. No link was verified.",
    document_runs=of_one_keyword,
    query_model=lambda config: config.quest.model,
)
