"""The chunks that any pair names, which is all that an experiment needs of the corpus."""

from __future__ import annotations

from typing import Any

import numpy as np

from entropylong.core.context import Frames


def paired_chunks(frames: Frames) -> tuple[dict[int, Any], dict[int, str]]:
    """Collect the chunks of all pairs: int32 token ids, and the document, each by chunk id.

    Args:
        frames: Tables `pairs`, `context_ids` and `chunks`.
    """
    ids = frames["context_ids"].join(frames["pairs"].select("chunk_id").distinct(), "chunk_id", how="left_semi")
    rows = ids.select("chunk_id", "ids").join(frames["chunks"].select("chunk_id", "doc_id"), "chunk_id", how="inner").collect()
    return {row.chunk_id: np.array(row.ids, np.int32) for row in rows}, {row.chunk_id: row.doc_id for row in rows}
