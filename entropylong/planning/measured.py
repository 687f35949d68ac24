"""What a finished run knows better than the defaults of `plan` do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState


def measured(state: PipelineState, figures: Mapping[str, float]) -> dict[str, float]:
    """Keys of the config's section `plan`.

    Args:
        state: of the workspace.
        figures: of the run, with roots and retrieved candidates.
    """
    documents = state.ok_rows("documents")
    roots = figures["roots"]
    pairs = (
        state.readings()
        .where(F.col("kind") == ReadingKind.RETRIEVED)
        .groupBy("root_id", "chunk_id")
        .agg(F.max("accepted").alias("yes"))
    )
    counted = pairs.agg(F.count(F.lit(1)).alias("pairs"), F.count_if("yes").alias("accepted")).collect()[0]
    chars = documents.agg(F.avg("n_chars")).collect()[0][0]
    return {
        "plan.document_tokens": max(1, round(chars / state.config.plan.chars_per_token)),
        "plan.root_tokens": max(1, round(figures["root_tokens"] / roots)),
        "plan.anchors_per_root": round(figures["anchors"] / roots, 2),
        "plan.anchors_per_pair": max(1.0, round(figures["cells_retrieved"] / counted.pairs, 3)),
        "plan.accepted_share": round(max(counted.accepted, 0.5) / counted.pairs, 4),
    }
