"""Recipe standard: random documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropylong.packing.recipes.base import AS_MANY_TOKENS, DocumentRunRecipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from entropylong.core.context import Frames, StageContext

# Of a large corpus no more documents are tokenised than a budget asks for, whatever their language; chance wants some more.
_CHARS_A_TOKEN, _MORE_DOCUMENTS = 12, 200


def random_documents(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """Random documents, each a document run."""
    from pyspark.sql import functions as F

    from entropylong.packing.recipes.shared import encoded, hash_place, whole_document, without_excluded

    place = hash_place(ctx, F.col("doc_id"))
    count, chars = frames["documents"].agg(F.count(F.lit(1)), F.coalesce(F.sum("n_chars"), F.lit(0))).collect()[0]
    share = budget * _CHARS_A_TOKEN / max(1, chars) + _MORE_DOCUMENTS / max(1, count)
    documents = frames["documents"].where(place <= F.lit(min(1.0, share)))
    return encoded(ctx, without_excluded(ctx, documents), "doc_id").select(
        F.col("doc_id").alias("document_run"), place.alias("place"), F.array(whole_document()).alias("pieces")
    )


RECORD = DocumentRunRecipe(
    name="standard",
    text=f"Baseline: random documents; {AS_MANY_TOKENS}. No link was verified.",
    document_runs=random_documents,
)
