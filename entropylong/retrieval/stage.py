"""Spark stages `embed`, `index` and `search`: chunks -> vectors -> index; anchors -> query vectors -> candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.balance import spread
from entropylong.core.context import CHARS_A_TOKEN, Frames, StageContext
from entropylong.core.handles import IndexHandle
from entropylong.core.stage import Driver, Resource, State, StreamStage, UnitStage, WholeStage
from entropylong.core.udf import Row, Rows, map_rows, map_stream
from entropylong.errors import NothingToDoError
from entropylong.models.cache import load
from entropylong.retrieval.grid import from_bytes, to_grid
from entropylong.retrieval.index import INDEX_FILES, open_index, ranked
from entropylong.retrieval.partitioned import merge, routes
from entropylong.retrieval.queries import OWN, anchor_positions, keys_of_queries, own_of, own_of_roots, with_queries
from entropylong.retrieval.sizing import BROADCAST, PARTITIONED, cell_count, choose_mode
from entropylong.retrieval.windows import window_text
from entropylong.spark.resources import executor_memory
from entropylong.spark.session import settings_of
from entropylong.storage.array_files import MANIFEST, read_manifest
from entropylong.storage.artifacts import Artifact
from entropylong.storage.schemas import CANDIDATES, CHUNK_VECTORS, OK, QUERY_VECTORS
from entropylong.storage.store import Store
from entropylong.utils.hashing import file_sha256
from entropylong.utils.isolation import isolated, refused

NO_ANCHOR = "no root has an anchor; lower anchors.alpha or anchors.min_position, or choose more roots"
# Batches of texts that are sorted by length together.
BUFFER_BATCHES = 16


def embed(ctx: StageContext, frames: Frames) -> DataFrame:
    """Chunks -> L2-normalised float16 vectors. Executors: the encoder, once a worker."""
    worker, prompt, size = ctx.encoder, ctx.config.encoder.passage_prompt, ctx.config.run.encode_batch

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        encoder = load(worker)
        while buffer := list(islice(rows, BUFFER_BATCHES * size)):

            def encoded(part: Sequence[Row]) -> Rows:
                vectors = encoder.encode([row["text"] for row in part], prompt, size)
                return [keys(row) | vector_columns(vector) for row, vector in zip(part, vectors, strict=True)]

            yield from isolated(buffer, encoded, lambda row, why: [keys(row) | refused("MODEL_FAILED", why)])

    def keys(row: Row) -> Row:
        # With the hash of its text an index needs no text, and no join with the chunks.
        return {"chunk_id": row["chunk_id"], "text_hash": row["text_hash"]}

    texts = frames["chunks"].select("chunk_id", "text_hash", "text")
    chunks = spread(ctx, texts, ["chunk_id"], F.length("text") / CHARS_A_TOKEN)
    return map_stream(chunks, CHUNK_VECTORS, ctx.meter, run)


def vector_columns(vector: np.ndarray[Any, np.dtype[np.float16]]) -> dict[str, Any]:
    """The vector as bytes, or the reason why it is none."""
    if not np.isfinite(vector).all():
        return refused("NON_FINITE", "the encoder gave a vector that is not finite")
    return {"vector": vector.astype("<f2").tobytes(), "outcome": OK}


def query_vectors(ctx: StageContext, frames: Frames) -> DataFrame:
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


def candidates(ctx: StageContext, frames: Frames) -> DataFrame:
    """Query vectors -> their nearest chunks. Executors: the index, memory-mapped; pure numpy and faiss."""
    handle, retrieval, rule = ctx.index, ctx.config.retrieval, ctx.config.chunks

    def run(rows: Rows) -> Iterator[dict[str, Any]]:
        index = open_index(handle)  # type: ignore[arg-type]
        keys = [(row["root_id"], query["position"]) for row in rows for query in row["queries"]]
        owners = np.repeat(np.arange(len(rows)), [len(row["queries"]) for row in rows])
        grid = to_grid(from_bytes([query["vector"] for row in rows for query in row["queries"]]))
        own = [own_of(row, rule) for row in rows]
        neighbours = index.search(grid, owners, own, retrieval.top_k, retrieval.nprobe)
        for (root, position), scores, ids in zip(keys, neighbours.scores.tolist(), neighbours.ids.tolist(), strict=True):
            key = {"root_id": root, "position": position}
            if hits := ranked(scores, ids):
                yield key | {"hits": [vars(hit) for hit in hits], "outcome": OK}
            else:
                yield key | refused("NO_CANDIDATE", "the probed cells hold no chunk but the root's own", "skipped")

    return map_rows(with_queries(frames).repartition(ctx.parallelism, "root_id"), CANDIDATES, run, keys_of_queries)


class Embed(StreamStage):
    """Chunks -> vectors."""

    name = "embed"
    version = 2
    reads = ("chunks",)
    writes = "chunk_vectors"
    key = ("chunk_id",)
    config = ("encoder.passage_prompt",)
    counted = "chunks"
    models = ("encoder",)
    resources = Resource.GPU
    purpose = "vectors of the chunks"

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Run the encoder over chunks."""
        return embed(ctx, frames)


class Index(WholeStage):
    """Vectors -> the files of an index. `pipeline/drivers/index.py` builds them in units of its own."""

    name = "index"
    version = 2
    driver = Driver.INDEX
    reads = ("chunk_vectors",)
    writes = "index"
    key = ("chunk_id",)
    config = ("retrieval.cells", "seed")
    needs_whole = ("documents", "chunks", "chunk_vectors")
    beside = ("index_cells",)
    pins_at_start = True
    purpose = "cells of a pinned snapshot of the vectors; one cell, an exact index, for a small corpus"

    def input_versions(self, store: Store, recorded: Artifact | None) -> dict[str, int]:
        """Keep the snapshot that the index was begun on."""
        return dict(recorded.input_versions) if recorded else super().input_versions(store, recorded)

    def pin(self, state: State, config: Mapping[str, Any], upstream: Mapping[str, str]) -> dict[str, Any] | None:
        """Stay on the generation that is in use, whatever arrived since: new corpus text takes effect by a new one."""
        built = None if state.new_generation else state.registry.latest("index", config, upstream)
        return dict(built.pinned) if built else None

    def snapshot(self, state: State) -> dict[str, Any] | None:
        """Pin the chunks and vectors that are committed now, by content: the same snapshot has one fingerprint, in however
        many commits it came.

        Raises:
            NothingToDoError: there is no chunk.
        """
        total = F.sum(F.xxhash64("chunk_id").cast("decimal(38,0)"))
        count, content = state.frames(self)["chunk_vectors"].agg(F.count(F.lit(1)), total).collect()[0]
        if not count:
            raise NothingToDoError("index: there is no chunk to retrieve from; give a source with role corpus or both")
        return {"chunks": count, "content": str(content), "cells": cell_count(count, state.config.retrieval.cells)}

    def handles(self, state: State, fingerprint: str) -> Mapping[str, object]:
        """Give the handle of the files, once they are there."""
        manifest = state.workspace.index(fingerprint) / MANIFEST
        if not manifest.is_file():
            return {}
        node_cache = state.context.causal_lm.node_cache
        return {"index": IndexHandle(str(manifest.parent), fingerprint, file_sha256(manifest), node_cache)}

    def is_present(self, state: State, fingerprint: str) -> bool:
        """Whether the files are there for the mode that the config asks for now."""
        directory = state.workspace.index(fingerprint)
        if not (directory / MANIFEST).is_file():
            return False
        return is_partitioned(state, fingerprint) or read_manifest(directory, INDEX_FILES)["mode"] == BROADCAST


def is_partitioned(state: State, fingerprint: str) -> bool:
    """Whether searches of an index go by cells through a shuffle."""
    facts = read_manifest(state.workspace.index(fingerprint), INDEX_FILES)
    memory = executor_memory(settings_of(state.context.spark))
    mode, _ = choose_mode(state.config.retrieval.mode, facts["n"], facts["d"], memory)
    return mode == PARTITIONED


class Queries(UnitStage):
    """Anchors -> vectors of their query windows."""

    name = "search"
    version = 1
    reads = ("anchors", "scored_documents")
    writes = "query_vectors"
    key = ("root_id", "position")
    config = ("query", "encoder.query_prompt")
    counted = "anchors"
    upstream = ("scored_documents",)
    models = ("encoder",)
    resources = Resource.GPU
    when_empty = NO_ANCHOR
    purpose = "vectors of the windows around anchors (paper, Stage 2)"

    @property
    def label(self) -> str:
        """Tell it from the step that searches."""
        return "search (queries)"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the anchors of chosen roots."""
        return anchor_positions(ctx, frames)

    def inputs(self, ctx: StageContext, frames: Frames, todo: DataFrame) -> Frames:
        """Give the ids of roots, without their profiles."""
        return {"anchors": todo, "scored_documents": frames["scored_documents"].select("root_id", "input_ids")}

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Run the encoder over query windows."""
        return query_vectors(ctx, frames)


class Search(UnitStage):
    """Query vectors -> their nearest chunks."""

    name = "search"
    version = 2
    driver = Driver.SEARCH
    reads = ("anchors", "query_vectors", "chunks", "documents")
    writes = "candidates"
    key = ("root_id", "position")
    config = ("retrieval.top_k", "retrieval.nprobe")
    counted = "anchors"
    upstream = ("query_vectors", "index")
    # By its chunks a root's own text is known, and every copy of it.
    needs_whole = ("chunks",)
    beside = ("query_cells", "partial_candidates")
    when_empty = NO_ANCHOR
    purpose = "the nearest chunks of each anchor, own chunks and copies of them left out (paper, Stage 2)"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the anchors of chosen roots, with their query vectors."""
        vectors = frames["query_vectors"].select("root_id", "position", "vector")
        return anchor_positions(ctx, frames).join(vectors, ["root_id", "position"], how="inner")

    def inputs(self, ctx: StageContext, frames: Frames, todo: DataFrame) -> Frames:
        """Give the hashes of the roots' own chunks, of which no text is read."""
        return {"anchors": todo, OWN: own_of_roots(ctx, todo, frames)}

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Search a broadcast index."""
        return candidates(ctx, frames)


class Route(Search):
    """First part of a partitioned search, in place of `Search.build`: queries -> their cells."""

    writes = "query_cells"

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Find the cells of queries."""
        return routes(ctx, frames)


class Merge(Search):
    """Last part of a partitioned search, in place of `Search.build`: what was found in ranges of cells -> candidates."""

    def inputs(self, ctx: StageContext, frames: Frames, todo: DataFrame) -> Frames:
        """Give what the ranges gave."""
        return {"anchors": todo, "partial_candidates": frames["partial_candidates"]}

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Merge what the ranges gave."""
        return merge(ctx, frames)


EMBED, INDEX, QUERIES, SEARCH, ROUTE, MERGE = Embed(), Index(), Queries(), Search(), Route(), Merge()
