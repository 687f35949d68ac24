"""What a workspace decides once and keeps: the threshold of its roots, the dtype of its model. Driver side.

Both are recorded in `artifacts` by the first run that needs them; a look at a workspace (`status`) decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import functions as F

from entropylong.config import Config
from entropylong.core.context import StageContext
from entropylong.corpus.selection import has_canaries, is_canary, root_hash
from entropylong.models.dtype import fastest_dtype
from entropylong.storage.artifacts import COMPLETE, Artifact, Registry, fingerprint
from entropylong.storage.store import Store
from entropylong.utils.hashing import share_threshold

logger = logging.getLogger(__name__)


def root_threshold(config: Config, store: Store, registry: Registry, documents: str, may_pin: bool) -> int | None:
    """Resolve `roots.share` or `roots.limit` to a threshold on the hash of doc_id; None where there is no root document yet.

    Args:
        config: The configuration.
        store: Tables of the workspace.
        registry: Artifacts of the workspace.
        documents: Fingerprint of `documents`.
        may_pin: Whether a run asks that may resolve a limit for good; it does so only when all documents are there.
    """
    roots = config.roots
    if roots.limit is None:
        return share_threshold(roots.share)
    names = config.sources_with_role("root")
    semantic = config.semantic("roots.limit", "seed") | {"sources": names}
    value = fingerprint("roots", 1, semantic, {}, {"documents": documents})
    artifact = registry.get(value)
    if artifact is None:
        chosen = store.read_ok("documents", documents).where(F.col("source").isin(names))
        if has_canaries(config):
            chosen = chosen.where(~is_canary(F.col("doc_id")))
        hashes = chosen.select(root_hash(config, F.col("doc_id")).alias("h")).orderBy("h").limit(roots.limit)
        threshold = hashes.agg(F.max("h")).collect()[0][0]
        if threshold is None:
            return None
        versions = {"documents": store.version("documents")}
        artifact = Artifact(
            value, "score", "roots", semantic, {}, {"documents": documents}, versions, {"threshold": threshold}, COMPLETE
        )
        # A look at a half-read corpus must decide nothing.
        if may_pin and registry.is_complete(documents):
            registry.record(artifact)
    return int(artifact.pinned["threshold"])


def body_dtype(context: StageContext, registry: Registry, may_pin: bool) -> str | None:
    """Resolve the dtype of the causal LM's body; `auto` as an executor measured it; None while none has.

    Args:
        context: Context with the model.
        registry: Artifacts of the workspace.
        may_pin: Whether it may be measured now.
    """
    worker = context.causal_lm
    if worker.dtype != "auto":
        return worker.dtype
    models = {"model": worker.fingerprint}
    value = fingerprint("dtype", 1, {}, models, {}, {})
    artifact = registry.get(value)
    if artifact is None:
        if not may_pin:
            return None
        measured = measure_dtype(context)
        logger.info("model.dtype: auto is %s in this workspace", measured)
        artifact = Artifact(value, "score", "dtype", {}, models, {}, {}, {"dtype": measured}, COMPLETE)
        registry.record(artifact)
    return str(artifact.pinned["dtype"])


def measure_dtype(context: StageContext) -> str:
    """Measure the fastest dtype on an executor: the driver need not have its hardware."""
    shape, cache = context.shape, context.causal_lm.node_cache

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pylist([{"dtype": fastest_dtype(shape, Path(cache))}])

    row = context.spark.range(0, 1, 1, 1).mapInArrow(run, "dtype STRING").collect()[0]
    return str(row.dtype)
