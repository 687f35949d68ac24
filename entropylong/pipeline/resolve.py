"""What a workspace decides once and keeps: the threshold of its roots, the dtype of its model. Driver side.

Both are recorded in `artifacts` by the first run that needs them; a look at a workspace (`status`) decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import functions as F

from entropylong.corpus.selection import has_canaries, is_canary, root_hash
from entropylong.models.dtype import fastest_dtype
from entropylong.packing.recipes.baselines import STRANDS
from entropylong.storage.artifacts import COMPLETE, Artifact, fingerprint
from entropylong.utils.hashing import digest, share_threshold
from entropylong.verification.readings import cells

if TYPE_CHECKING:
    from entropylong.core.context import Context, Frames
    from entropylong.pipeline.runner import Runner


def root_threshold(runner: Runner, documents: str, may_pin: bool) -> int | None:
    """`roots.share` or `roots.limit` as a threshold on the hash of doc_id; None where there is no root document yet.

    Args:
        runner: of the workspace.
        documents: fingerprint of `documents`.
        may_pin: whether a limit may be resolved for good: only when all documents are there.
    """
    config, roots = runner.config, runner.config.roots
    if roots.limit is None:
        return share_threshold(roots.share)
    names = config.sources_with_role("root")
    semantic = config.semantic("roots.limit", "seed") | {"sources": names}
    value = fingerprint("roots", 1, semantic, {}, {"documents": documents})
    known = runner.registry.get(value)
    if known is None:
        chosen = runner.store.read_ok("documents", documents).where(F.col("source").isin(names))
        if has_canaries(config):
            chosen = chosen.where(~is_canary(F.col("doc_id")))
        hashes = chosen.select(root_hash(config, F.col("doc_id")).alias("h")).orderBy("h").limit(roots.limit)
        threshold = hashes.agg(F.max("h")).collect()[0][0]
        if threshold is None:
            return None
        versions = {"documents": runner.store.version("documents")}
        known = Artifact(
            value, "score", "roots", semantic, {}, {"documents": documents}, versions, {"threshold": threshold}, COMPLETE
        )
        if may_pin:
            runner.registry.record(known)
    return int(known.pinned["threshold"])


def packed_from(runner: Runner, frames: Frames) -> dict[str, Any]:
    """What a packing depends on: the roots, the cells, and for a baseline the corpus, the index and the query model."""
    ctx, is_baseline = runner.ctx, runner.config.pack.recipe in STRANDS
    pinned = {"root_threshold": ctx.root_threshold, "content": content_digest(frames, is_baseline)}
    if is_baseline:
        pinned |= {"index": runner.fingerprint("index"), "queries": ctx.query_model.fingerprint if ctx.query_model else None}
    return pinned


def content_digest(frames: Frames, with_documents: bool) -> str:
    """What packing starts from, independent of row order: the planned pairs and their cells in force, and nothing beside them.

    Args:
        frames: of the step.
        with_documents: the corpus too, from which a baseline takes its documents.
    """
    parts = []
    read = [frames["pairs"].select("pair_id", "root_id", "chunk_id", "kind"), cells(frames)]
    if with_documents:
        read.append(frames["documents"].select("doc_id", "text_hash"))
    for frame in read:
        total = F.sum(F.xxhash64(*frame.columns).cast("decimal(38,0)"))
        parts.append([str(v) for v in frame.agg(F.count(F.lit(1)), total).collect()[0]])
    return digest(parts)


def body_dtype(runner: Runner, may_pin: bool) -> str | None:
    """The dtype of the causal LM's body; `auto` as an executor measured it; None while none has.

    Args:
        runner: of the workspace.
        may_pin: whether it may be measured now.
    """
    worker = runner.ctx.causal_lm
    if worker.dtype != "auto":
        return worker.dtype
    models = {"model": worker.fingerprint}
    value = fingerprint("dtype", 1, {}, models, {}, {})
    known = runner.registry.get(value)
    if known is None:
        if not may_pin:
            return None
        measured = measure_dtype(runner.ctx)
        runner.ctx.say(f"model.dtype: auto is {measured} in this workspace")
        known = Artifact(value, "score", "dtype", {}, models, {}, {}, {"dtype": measured}, COMPLETE)
        runner.registry.record(known)
    return str(known.pinned["dtype"])


def measure_dtype(ctx: Context) -> str:
    """On an executor: the driver need not have its hardware."""
    shape, cache = ctx.shape, ctx.causal_lm.node_cache

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pylist([{"dtype": fastest_dtype(shape, Path(cache))}])

    row = ctx.spark.range(0, 1, 1, 1).mapInArrow(run, "dtype STRING").collect()[0]
    return str(row.dtype)
