"""Spark stage `pairs`: candidates and controls -> unique pairs of ids; then the token ids of the chunks that they name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.context import Frames, StageContext
from entropylong.core.stage import UnitStage
from entropylong.core.udf import Rows, map_rows
from entropylong.corpus.selection import is_chosen
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain
from entropylong.retrieval.index import open_index
from entropylong.retrieval.queries import OWN, own_of, own_of_roots
from entropylong.retrieval.stage import NO_ANCHOR
from entropylong.storage.schemas import CONTEXT_IDS, OK, PAIRS
from entropylong.utils.hashing import xxhash64
from entropylong.utils.isolation import refused
from entropylong.verification.planning import Anchor, plan_root

# Names of further frames among the inputs of `pairs`: (root_id, hash of what a pass depends on but for its chunk), and hits.
_ROOT_HASHES, _HITS = "root_hashes", "hits"


def pairs(ctx: StageContext, frames: Frames) -> DataFrame:
    """Candidates and random controls -> unique (root, chunk) pairs. Executors: planning (pure, with the index's pool)."""
    handle, scope, controls = ctx.index, ctx.config.verify.scope, ctx.config.controls.per_root
    seed, rule = ctx.config.seed, ctx.config.chunks

    def plan(rows: Rows) -> Iterator[dict[str, Any]]:
        index = open_index(handle)  # type: ignore[arg-type]
        for row in rows:
            hits: dict[int, list[tuple[int, float]]] = {}
            for hit in sorted(row["hits"], key=lambda hit: (hit["position"], hit["rank"])):
                hits.setdefault(hit["position"], []).append((hit["chunk_id"], hit["score"]))
            if not hits:
                yield {"root_id": row["root_id"]} | refused("NO_CANDIDATE", "no anchor of the root has a candidate", "skipped")
                continue
            text_hashes = {hit["chunk_id"]: hit["text_hash"] for hit in row["hits"]}
            random = index.random_chunks(controls, (seed, row["root_id"]), set(own_of(row, rule)), set(text_hashes))
            for pair in plan_root([Anchor(**anchor) for anchor in row["anchors"]], hits, list(random), scope):
                text_hash = random.get(pair.chunk_id, text_hashes.get(pair.chunk_id))
                pair_id = xxhash64(text_hash, seed=row["root_hash"])  # type: ignore[arg-type]
                anchors = [vars(anchor) for anchor in pair.anchors]
                yield {"root_id": row["root_id"], "pair_id": pair_id, "outcome": OK} | vars(pair) | {"anchors": anchors}

    by_root = frames[_HITS].groupBy("root_id").agg(F.collect_list(F.struct(*_HIT)).alias("hits"))
    roots = (
        frames["anchors"]
        .join(frames[_ROOT_HASHES], "root_id", how="inner")
        .join(frames[OWN], "root_id", how="inner")
        .join(by_root, "root_id", how="left")
        .withColumn("hits", F.coalesce("hits", F.array().cast(by_root.schema["hits"].dataType)))
    )
    return map_rows(roots.repartition(ctx.parallelism, "root_id"), PAIRS, plan)


_HIT = ("position", "rank", "score", "chunk_id", "text_hash")


class Pairs(UnitStage):
    """Candidates and controls -> pairs to measure."""

    name = "pairs"
    version = 4
    reads = ("anchors", "candidates", "scored_documents", "chunks", "documents")
    writes = "pairs"
    key = ("root_id",)
    config = ("verify.scope", "controls", "seed")
    counted = "roots"
    needs_whole = ("chunks", "query_vectors", "candidates")
    upstream = ("anchors", "candidates", "gains")
    when_empty = NO_ANCHOR
    purpose = "unique (root, chunk) pairs and random controls, with the anchors to read them at"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the anchors of chosen roots."""
        return frames["anchors"].where(is_chosen(ctx)).select("root_id", "anchors")

    def inputs(self, ctx: StageContext, frames: Frames, todo: DataFrame) -> Frames:
        """Give the hits of the anchors there are, each with the hash of its chunk's text, and hashes of the roots."""
        # One pass serves every plan that names it: the id of a pair has all in it that the readings depend on.
        hashed = F.xxhash64(F.lit(ctx.fingerprints["gains"]), "input_ids").alias("root_hash")
        current = todo.select("root_id", F.explode("anchors.position").alias("position"))
        hits = (
            frames["candidates"]
            .join(current, ["root_id", "position"], how="left_semi")
            .select("root_id", "position", F.explode("hits").alias("hit"))
            .select("root_id", "position", "hit.*")
            .join(frames["chunks"].select("chunk_id", "text_hash"), "chunk_id", how="left")
        )
        return {
            "anchors": todo,
            _HITS: hits.select("root_id", *_HIT),
            OWN: own_of_roots(ctx, todo, frames),
            _ROOT_HASHES: frames["scored_documents"].select("root_id", hashed),
        }

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Plan pairs."""
        return pairs(ctx, frames)


def context_ids(ctx: StageContext, frames: Frames) -> DataFrame:
    """Chunks -> their token ids, cut as they are prepended. Executors: the tokenizer."""
    tokenizer, cut = ctx.causal_lm.tokenizer(), ctx.config.contexts.max_tokens

    def tokenise(rows: Rows) -> Iterator[dict[str, Any]]:
        encoder = load(tokenizer)
        for row in rows:
            yield {"chunk_id": row["chunk_id"], "ids": encode_plain(encoder, row["text"])[:cut], "outcome": OK}

    rows = frames["pairs"].join(frames["chunks"].select("chunk_id", "text"), "chunk_id", how="inner")
    return map_rows(rows.repartition(ctx.parallelism, "chunk_id"), CONTEXT_IDS, tokenise)


class ContextIds(UnitStage):
    """Chunks that any pair names -> their token ids: each chunk once, in one pass over the corpus."""

    name = "pairs"
    version = 1
    cut_by = ""
    reads = ("pairs", "chunks")
    writes = "context_ids"
    key = ("chunk_id",)
    config = ("contexts.max_tokens",)
    counted = "chunks"
    models = ("model",)
    upstream = ("chunks",)
    when_empty = "no pair to measure: no anchor has a candidate; give more corpus text"
    purpose = "token ids of the chunks that pairs name, cut to contexts.max_tokens"

    @property
    def label(self) -> str:
        """Tell it from the step that plans pairs."""
        return "pairs (contexts)"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the chunks that pairs of chosen roots name."""
        return frames["pairs"].where(is_chosen(ctx)).select("chunk_id").distinct()

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Run the tokenizer over chunks."""
        return context_ids(ctx, frames)


PLAN_PAIRS, CONTEXTS = Pairs(), ContextIds()
