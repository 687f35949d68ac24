"""Recipe knn: documents before their nearest chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entropylong.packing.recipes import neighbours
from entropylong.packing.recipes.base import AS_MANY_TOKENS, DocumentRunRecipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from entropylong.core.context import Frames, StageContext


def before_nearest(ctx: StageContext, frames: Frames, budget: int) -> DataFrame:
    """A root's document, then the chunks nearest to it."""
    from entropylong.packing.recipes.nearest import with_neighbours

    return with_neighbours(ctx, frames, neighbours.knn, meta_chunks=False)


RECORD = DocumentRunRecipe(
    name="knn",
    text=f"Baseline KNN: documents followed by their nearest chunks; {AS_MANY_TOKENS}. No link was verified.",
    document_runs=before_nearest,
)
