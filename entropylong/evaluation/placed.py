"""A sample of the dependencies of a workspace's sequences, and other chunks to put in the place of their contexts. Spark."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

from entropylong.corpus.selection import root_doc_id
from entropylong.errors import EvaluationError
from entropylong.evaluation.in_place import Placed
from entropylong.models.cache import WorkerModel, load
from entropylong.models.causal_lm import Ids, encode_plain
from entropylong.packing.sequences import SegmentKind
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import struct_of

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState

# Chunks among which one is found for each context.
OTHERS = 256


def sample_placed(state: PipelineState, count: int) -> tuple[list[tuple[Ids, Sequence[Placed]]], set[int], set[str]]:
    """Up to `count` dependencies by hash, with the sequences that they are in; and the ids of these sequences' chunks and roots.

    Raises:
        EvaluationError: there is no sequence with a dependency.
    """
    seed = F.lit(state.config.seed).cast("bigint")
    sequences = state.ok_rows("sequences")
    links = sequences.select("sequence_id", F.explode("dependencies").alias("d")).select("sequence_id", "d.*")
    order = F.xxhash64(seed, "sequence_id", "root_id", "chunk_id", "anchor")
    chosen = links.orderBy(order, "sequence_id", "root_id", "chunk_id", "anchor").limit(count).collect()
    if not chosen:
        raise EvaluationError("no sequence holds a dependency; make some with: entropylong run, with the same config")
    chosen.sort(key=lambda row: row.sequence_id)
    names = {row.sequence_id for row in chosen}
    whole = sequences.where(F.col("sequence_id").isin(list(names))).select("sequence_id", "input_ids", "segments").collect()
    by_id = {row.sequence_id: row for row in whole}
    pairs: list[tuple[Ids, Sequence[Placed]]] = []
    for name, own in groupby(chosen, key=lambda row: row.sequence_id):
        row = by_id[name]
        contexts = {s.chunk_id: (s.start, s.end) for s in row.segments if s.kind == SegmentKind.CONTEXT}
        roots = {s.root_id: s.start for s in row.segments if s.kind == SegmentKind.ROOT}
        placed = [
            Placed(f"{name}/{d.root_id}/{d.chunk_id}/{d.anchor}", d.anchor, roots[d.root_id], contexts[d.chunk_id], d.gain)
            for d in own
        ]
        pairs.append((np.array(row.input_ids, np.int32), placed))
    segments = [segment for row in whole for segment in row.segments]
    return pairs, {s.chunk_id for s in segments} - {None}, {s.root_id for s in segments} - {None}


def other_chunks(state: PipelineState, reader: WorkerModel, chunk_ids: set[int], root_ids: set[str]) -> list[Ids]:
    """Ids of chunks by hash, none of them in the sequences and none of a document whose root is there.

    Args:
        state: of the workspace.
        reader: the model whose tokenizer reads them.
        chunk_ids, root_ids: what `sample_placed` says is in the sequences.
    """
    roots = local_frame(state.spark, [{"root_id": name} for name in sorted(root_ids)], struct_of("root_id STRING"))
    chunks = state.ok_rows("chunks")
    strange = chunks.join(roots.select(root_doc_id(state.config).alias("doc_id")), "doc_id", "left_anti")
    order = F.xxhash64(F.lit(state.config.seed).cast("bigint"), "chunk_id")
    is_inside = F.col("chunk_id").isin(sorted(chunk_ids))
    tokenizer = load(reader.tokenizer())
    texts = strange.where(~is_inside).orderBy(order, "chunk_id").limit(OTHERS).select("text").collect()
    return [np.array(encode_plain(tokenizer, row.text), np.int32) for row in texts]
