"""Spark stages `embed`, `index` and `search`: chunks -> vectors -> index; anchors -> query vectors -> candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.balance import spread
from entropylong.core.context import CHARS_A_TOKEN, Context, Frames
from entropylong.core.stage import Kind, Stage
from entropylong.core.udf import Row, Rows, map_rows, map_stream
from entropylong.models.cache import load
from entropylong.retrieval.grid import from_bytes, to_grid
from entropylong.retrieval.index import open_index, ranked
from entropylong.retrieval.partitioned import merge, routes
from entropylong.retrieval.queries import anchor_positions, keys_of_queries, own_hashes, with_queries
from entropylong.retrieval.windows import window_text
from entropylong.storage.schemas import CANDIDATES, CHUNK_VECTORS, OK, QUERY_VECTORS
from entropylong.utils.isolation import isolated, refused

# Batches of texts that are sorted by length together.
BUFFER_BATCHES = 16


def embed(ctx: Context, frames: Frames) -> DataFrame:
    """Chunks -> L2-normalised float16 vectors. Executors: the encoder, once a worker."""
    worker, prompt, size = ctx.encoder, ctx.config.encoder.passage_prompt, ctx.config.run.encode_batch

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        encoder = load(worker)
        while buffer := list(islice(rows, BUFFER_BATCHES * size)):

            def encoded(part: Sequence[Row]) -> Rows:
                vectors = encoder.encode([row["text"] for row in part], prompt, size)
                return [{"chunk_id": row["chunk_id"]} | vector_columns(vector) for row, vector in zip(part, vectors, strict=True)]

            yield from isolated(buffer, encoded, lambda row, why: [{"chunk_id": row["chunk_id"]} | refused("MODEL_FAILED", why)])

    chunks = spread(ctx, frames["chunks"].select("chunk_id", "text"), ["chunk_id"], F.length("text") / CHARS_A_TOKEN)
    return map_stream(chunks, CHUNK_VECTORS, ctx.meter, run)


def vector_columns(vector: np.ndarray[Any, np.dtype[np.float16]]) -> dict[str, Any]:
    """The vector as bytes, or the reason why it is none."""
    if not np.isfinite(vector).all():
        return refused("NON_FINITE", "the encoder gave a vector that is not finite")
    return {"vector": vector.astype("<f2").tobytes(), "outcome": OK}


def query_vectors(ctx: Context, frames: Frames) -> DataFrame:
    """Anchors -> vectors of their query windows. Executors: the causal LM's tokenizer and the encoder."""
    worker, tokenizer = ctx.encoder, ctx.causal_lm.tokenizer()
    query, prompt, size = ctx.config.query, ctx.config.encoder.query_prompt, ctx.config.run.encode_batch

    def run(rows: Rows) -> Iterator[dict[str, Any]]:
        decoder = load(tokenizer)
        keys, texts = [], []
        for row in rows:
            for position in row["positions"]:
                keys.append({"root_id": row["root_id"], "position": position})
                texts.append(window_text(decoder, row["input_ids"], position, window=query.window, side=query.side))
        for key, vector in zip(keys, load(worker).encode(texts, prompt, size), strict=True):
            yield key | vector_columns(vector)

    positions = frames["anchors"].groupBy("root_id").agg(F.sort_array(F.collect_list("position")).alias("positions"))
    roots = positions.join(frames["scored_documents"].select("root_id", "input_ids"), "root_id", how="inner")
    return map_rows(roots.repartition(ctx.parallelism, "root_id"), QUERY_VECTORS, run, _keys_of_positions)


def _keys_of_positions(row: Row) -> Rows:
    return [{"root_id": row["root_id"], "position": position} for position in row["positions"]]


def candidates(ctx: Context, frames: Frames) -> DataFrame:
    """Query vectors -> their nearest chunks. Executors: the index, memory-mapped; pure numpy and faiss."""
    handle, retrieval, rule = ctx.index, ctx.config.retrieval, ctx.config.chunks

    def run(rows: Rows) -> Iterator[dict[str, Any]]:
        index = open_index(handle)  # type: ignore[arg-type]
        keys = [(row["root_id"], query["position"]) for row in rows for query in row["queries"]]
        owners = np.repeat(np.arange(len(rows)), [len(row["queries"]) for row in rows])
        grid = to_grid(from_bytes([query["vector"] for row in rows for query in row["queries"]]))
        own = [own_hashes(row["text"], rule) for row in rows]
        found = index.search(grid, owners, own, retrieval.top_k, retrieval.nprobe)
        for (root, position), scores, ids in zip(keys, found.scores.tolist(), found.ids.tolist(), strict=True):
            key = {"root_id": root, "position": position}
            if hits := ranked(scores, ids):
                yield key | {"hits": [vars(hit) for hit in hits], "outcome": OK}
            else:
                yield key | refused("NO_CANDIDATE", "the probed cells hold no chunk but the root's own", "skipped")

    return map_rows(with_queries(ctx, frames).repartition(ctx.parallelism, "root_id"), CANDIDATES, run, keys_of_queries)


def _with_vectors(ctx: Context, frames: Frames) -> DataFrame:
    vectors = frames["query_vectors"].select("root_id", "position", "vector")
    return anchor_positions(ctx, frames).join(vectors, ["root_id", "position"], how="inner")


def _no_build(ctx: Context, frames: Frames) -> DataFrame:
    raise AssertionError("the runner builds it in units of its own")


EMBED = Stage(
    name="embed",
    version=1,
    kind=Kind.STREAM,
    reads=("chunks",),
    writes="chunk_vectors",
    key=("chunk_id",),
    config=("encoder.passage_prompt",),
    build=embed,
    models=("encoder",),
    purpose="vectors of the chunks",
)
INDEX = Stage(
    name="index",
    version=2,
    kind=Kind.WHOLE,
    reads=("chunk_vectors", "chunks"),
    writes="index",
    key=("chunk_id",),
    config=("retrieval.cells", "seed"),
    build=_no_build,
    needs_whole=("documents", "chunks", "chunk_vectors"),
    beside=("index_cells",),
    purpose="cells of a pinned snapshot of the vectors; one cell, an exact index, for a small corpus",
)
QUERIES = Stage(
    name="search",
    version=1,
    kind=Kind.BATCH,
    reads=("anchors", "scored_documents"),
    writes="query_vectors",
    key=("root_id", "position"),
    config=("query", "encoder.query_prompt"),
    build=query_vectors,
    driving=anchor_positions,
    upstream=("scored_documents",),
    models=("encoder",),
    purpose="vectors of the windows around anchors (paper, Stage 2)",
)
SEARCH = Stage(
    name="search",
    version=2,
    kind=Kind.BATCH,
    reads=("anchors", "query_vectors", "documents"),
    writes="candidates",
    key=("root_id", "position"),
    config=("retrieval.top_k", "retrieval.nprobe"),
    build=candidates,
    driving=_with_vectors,
    upstream=("query_vectors", "index"),
    beside=("query_cells", "partial_candidates"),
    purpose="the nearest chunks of each anchor, own chunks and copies of them left out (paper, Stage 2)",
)
# A partitioned search, in place of SEARCH.build: the same driving rows, first to query_cells, at last from partial_candidates.
ROUTE = replace(SEARCH, writes="query_cells", build=routes)
MERGE = replace(SEARCH, build=merge)
