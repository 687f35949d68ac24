"""Recipe nextlong: documents in pieces, hard negatives between them (NExtLong, ICML 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropylong.packing.recipes import neighbours
from entropylong.packing.recipes.base import AS_MANY_TOKENS, DocumentRunRecipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from entropylong.core.context import Frames, StageContext


def between_negatives(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """A root's document in meta-chunks, after each its nearest chunks as hard negatives. What fills no sequence is dropped."""
    from pyspark.sql import functions as F

    from entropylong.packing.recipes.nearest import with_neighbours
    from entropylong.packing.recipes.shared import document_run_tokens, sequence_room

    runs = with_neighbours(ctx, frames, neighbours.nextlong, meta_chunks=True)
    return runs.where(document_run_tokens(ctx) >= F.lit(sequence_room(ctx)))


RECORD = DocumentRunRecipe(
    name="nextlong",
    text=f"Baseline NExtLong: documents in pieces, after each its nearest chunks; {AS_MANY_TOKENS}. No link was verified.",
    document_runs=between_negatives,
)
