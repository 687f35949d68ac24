"""Spark stage `pack`: judged readings -> groups -> sequences. A full, deterministic recompute over a pinned snapshot."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, GroupedData, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from entropylong.config import Config
from entropylong.core.batches import BUCKET_TOKENS
from entropylong.core.context import Frames, StageContext
from entropylong.core.stage import RecomputeStage, State
from entropylong.core.udf import arrow_table
from entropylong.corpus.selection import choice_of_roots, has_canaries, is_canary, is_held_out, root_doc_id
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.packing.arrow import USES, batches_of, document_runs_of, groups_of
from entropylong.packing.document_runs import pack_document_runs
from entropylong.packing.recipes import recipe_of
from entropylong.packing.recipes.base import DocumentRunRecipe, GroupedRecipe, Recipe
from entropylong.packing.recipes.shared import within_budget
from entropylong.packing.recipes.verified import RECORD as VERIFIED
from entropylong.packing.sequences import PackedSequence, PackRule, SegmentKind, Swap, pack_groups
from entropylong.storage.schemas import OK, SEQUENCES
from entropylong.utils.hashing import digest
from entropylong.verification.planning import PairKind
from entropylong.verification.readings import readings


def pack(ctx: StageContext, frames: Frames) -> DataFrame:
    """Groups, or a baseline's document runs, -> sequences. frames["readings"] are judged.

    Raises:
        ConfigError: a baseline's corpus has fewer tokens than the verified arm.
    """
    frames, recipe = packable(ctx.config, frames), recipe_of(ctx.config)
    if isinstance(recipe, GroupedRecipe):
        return _pack_groups(ctx, recipe, group_rows(ctx, recipe, frames))
    budget = content_tokens(_pack_groups(ctx, VERIFIED, group_rows(ctx, VERIFIED, frames)))
    runs = recipe.document_runs(ctx, frames, budget)
    return _pack_document_runs(ctx, recipe, within_budget(ctx, runs, budget))


def packable(config: Config, frames: Frames) -> Frames:
    """What may be packed: nothing that was planted or held out, neither as a root nor as a context."""
    if not (has_canaries(config) or config.pack.held_out):
        return frames

    def refused(doc_id: Column) -> Column:
        planted = is_canary(doc_id) if has_canaries(config) else F.lit(False)
        return planted | is_held_out(config, doc_id) if config.pack.held_out else planted

    kept_frames = {name: frames[name].where(~refused(F.col("doc_id"))) for name in ("documents", "chunks", "scored_documents")}
    chunks = kept_frames["chunks"].select("chunk_id")
    for name in ("readings", "pairs"):
        rows = frames[name].where(~refused(root_doc_id(config)))
        kept_frames[name] = rows.join(chunks, "chunk_id", how="left_semi").select(*frames[name].columns)
    return {**frames, **kept_frames}


def content_digest(frames: Frames, with_documents: bool) -> str:
    """Hash what packing starts from, independent of row order: the planned pairs and their readings in force, and nothing else.

    Args:
        frames: Input tables of the stage.
        with_documents: Whether the corpus counts too, from which a baseline takes its documents.
    """
    parts = []
    read = [frames["pairs"].select("pair_id", "root_id", "chunk_id", "kind"), readings(frames)]
    if with_documents:
        read.append(frames["documents"].select("doc_id", "text_hash"))
    for frame in read:
        total = F.sum(F.xxhash64(*frame.columns).cast("decimal(38,0)"))
        parts.append([str(v) for v in frame.agg(F.count(F.lit(1)), total).collect()[0]])
    return digest(parts)


def content_tokens(sequences: DataFrame) -> int:
    """All tokens but padding."""
    spans = sequences.select(F.explode("segments").alias("s")).where(F.col("s.kind") != SegmentKind.PAD)
    return int(spans.agg(F.sum(F.col("s.end") - F.col("s.start"))).collect()[0][0] or 0)


def _pack_groups(ctx: StageContext, recipe: GroupedRecipe, groups: DataFrame) -> DataFrame:
    """Executors: pure packing, bucket by bucket."""
    make_rule, row = _rule_maker(ctx, recipe, recipe.swap), _row_maker(recipe.name)
    arrow = to_arrow_schema(SEQUENCES.struct)

    def run(table: pa.Table) -> pa.Table:
        packed = pack_groups(groups_of(table), make_rule())
        return arrow_table(batches_of(packed, row, arrow), arrow)

    ids = [F.size("input_ids"), *(_tokens(use, "chunk_ids") for use in USES)]
    return _bucketed(ctx, groups, "root_id", reduce(operator.add, ids)).applyInArrow(run, SEQUENCES.ddl)


def _pack_document_runs(ctx: StageContext, recipe: DocumentRunRecipe, runs: DataFrame) -> DataFrame:
    """Executors: pure packing, bucket by bucket."""
    make_rule, row = _rule_maker(ctx, recipe), _row_maker(recipe.name)
    arrow = to_arrow_schema(SEQUENCES.struct)

    def run(table: pa.Table) -> pa.Table:
        rule = make_rule()
        cut = [run.cut(room, len(rule.separator_ids)) for run, room in document_runs_of(table)]
        return arrow_table(batches_of(pack_document_runs(cut, rule), row, arrow), arrow)

    rows = runs.select("document_run", "pieces", "room")
    return _bucketed(ctx, rows, "document_run", _tokens("pieces", "ids")).applyInArrow(run, SEQUENCES.ddl)


def _bucketed(ctx: StageContext, rows: DataFrame, name: str, tokens: Column) -> GroupedData:
    """Rows by bucket. How many buckets there are follows from the rows alone: what is packed again is packed the same."""
    buckets = ctx.config.pack.buckets
    if buckets == "auto":
        rows = ctx.cache(rows)
        total = rows.agg(F.sum(tokens.cast("bigint"))).collect()[0][0] or 0
        buckets = max(1, -(-total // BUCKET_TOKENS))
    return rows.groupBy(F.pmod(F.xxhash64(F.lit(ctx.config.seed).cast("bigint"), name), F.lit(buckets)).alias("bucket"))


def _tokens(chunks: str, ids: str) -> Column:
    """Token ids in an array of chunks."""
    return F.aggregate(chunks, F.lit(0).cast("bigint"), lambda total, chunk: total + F.size(chunk[ids]))


def _rule_maker(ctx: StageContext, recipe: Recipe, swap: Swap | None = None) -> Callable[[], PackRule]:
    """What gives the rule where the tokenizer is: on an executor."""
    rule, seed, name = ctx.config.pack, ctx.config.seed, recipe.name
    tokenizer, separator, start_id = ctx.causal_lm.tokenizer(), ctx.config.separator, ctx.causal_lm.document_start_id

    def make() -> PackRule:
        words = load(tokenizer)
        start_ids, pad_id = pad_and_start(words, start_id)
        return PackRule(
            length=rule.length,
            layout=rule.layout,
            order=rule.order,
            filler=rule.filler,
            seed=seed,
            recipe=name,
            start_ids=start_ids,
            separator_ids=tuple(encode_plain(words, separator)),
            pad_id=pad_id,
            swap=swap,
        )

    return make


def group_rows(ctx: StageContext, recipe: GroupedRecipe, frames: Frames) -> DataFrame:
    """One row a root: its ids, dependencies, context chunks, and the chunks that may fill the rest of its sequence."""
    pack, seed = ctx.config.pack, ctx.config.seed
    all_links = recipe.links(frames["readings"], ctx.config.accept)
    planned = frames["pairs"].select("root_id", "chunk_id", "kind")
    links, fillers = cap_chunk_uses(all_links, filler_chunks(planned, all_links, pack.filler), pack.max_chunk_uses, seed)
    dependencies = links.groupBy("root_id").agg(
        F.collect_list(F.struct("chunk_id", "position", "gain", "excess_gain")).alias("dependencies")
    )
    uses = links.select("root_id", "chunk_id", F.lit("contexts").alias("use")).distinct()
    uses = uses.unionByName(fillers.select("root_id", "chunk_id", F.lit("fillers").alias("use")))
    if recipe.swap is not None:
        capped = all_links.join(links, ["root_id", "chunk_id"], how="left_anti").select("root_id", "chunk_id").distinct()
        uses = uses.unionByName(capped.withColumn("use", F.lit("capped")))
    # A chunk is cut alike for every root.
    ids = frames["context_ids"].select("chunk_id", F.col("ids").alias("chunk_ids"))
    chunk = F.struct("chunk_id", "chunk_ids")
    chunks = (
        uses.join(ids, "chunk_id", how="inner")
        .groupBy("root_id")
        .agg(*(F.collect_list(F.when(F.col("use") == use, chunk)).alias(use) for use in USES))
    )
    return (
        dependencies.join(frames["scored_documents"].select("root_id", "input_ids"), "root_id", how="inner")
        .join(chunks, "root_id", how="inner")
        .select("root_id", "input_ids", "dependencies", *USES)
    )


def filler_chunks(planned: DataFrame, links: DataFrame, filler: str) -> DataFrame:
    """(root_id, chunk_id) that `pack.filler` may draw for the roots that are packed: pairs of its kind that no recipe wants."""
    kind = {"none": F.lit(False), "rejected": F.col("kind") != PairKind.RANDOM, "random": F.col("kind") == PairKind.RANDOM}[filler]
    of_packed = planned.where(kind).join(links.select("root_id").distinct(), "root_id", how="left_semi")
    return of_packed.join(links, ["root_id", "chunk_id"], how="left_anti").select("root_id", "chunk_id").distinct()


def cap_chunk_uses(links: DataFrame, fillers: DataFrame, limit: int | None, seed: int) -> tuple[DataFrame, DataFrame]:
    """At most `limit` roots a chunk, contexts before fillers, the first in hash order.

    Before bucketing, so that the cap is the corpus's.
    """
    if limit is None:
        return links, fillers
    order = Window.partitionBy("chunk_id").orderBy(
        "is_filler", F.xxhash64(F.lit(seed).cast("bigint"), "chunk_id", "root_id"), "root_id"
    )
    uses = links.select("root_id", "chunk_id", F.lit(False).alias("is_filler")).distinct()
    uses = uses.unionByName(fillers.withColumn("is_filler", F.lit(True)))
    kept_uses = uses.withColumn("use", F.row_number().over(order)).where(F.col("use") <= limit)
    key = ["root_id", "chunk_id"]
    return (
        links.join(kept_uses.where(~F.col("is_filler")), key, how="left_semi"),
        fillers.join(kept_uses.where("is_filler"), key, how="left_semi"),
    )


def _row_maker(recipe: str) -> Callable[[PackedSequence], dict[str, Any]]:
    """What gives the row of a sequence, but for its ids."""

    def make(sequence: PackedSequence) -> dict[str, Any]:
        return {
            "sequence_id": sequence.sequence_id,
            "recipe": recipe,
            "segments": [vars(s) for s in sequence.segments],
            "dependencies": [vars(d) | {"distance": d.distance} for d in sequence.dependencies],
            "loss_mask": sequence.loss_mask,
            "outcome": OK,
        }

    return make


class Pack(RecomputeStage):
    """Judged readings -> sequences."""

    name = "pack"
    version = 4
    reads = ("pairs", "gains", "context_ids", "anchors", "candidates", "scored_documents", "documents", "chunks")
    writes = "sequences"
    key = ("sequence_id",)
    config = ("accept", "pack", "quest", "seed", "roots.share", "roots.limit", "separator", "model.document_start_id")
    upstream = ("pairs", "gains")
    # Not gains: roots whose ids are cut alike share a reading, which has the id of one of them; pairs choose them.
    of_chosen_roots = ("pairs", "anchors", "candidates", "scored_documents")
    again = True
    purpose = "accept, order and pack into sequences of exactly pack.length tokens (paper, Stage 4)"

    def pin(self, state: State, config: Mapping[str, Any], upstream: Mapping[str, str]) -> dict[str, Any] | None:
        """Pin the chosen roots and the content that packing starts from; for a baseline also corpus, index and query model."""
        if not state.resolve_roots():
            return None
        ctx, is_baseline = state.context, isinstance(recipe_of(state.config), DocumentRunRecipe)
        tables = ("pairs", "gains", *(("documents",) if is_baseline else ()))
        content = state.known_content(
            upstream["pairs"], digest([choice_of_roots(ctx), is_baseline]), tables,
            lambda: content_digest(state.frames(self), is_baseline),
        )  # fmt: skip
        pinned = {"root_threshold": ctx.root_threshold, "content": content}
        if is_baseline:
            pinned |= {
                "index": state.fingerprint("index"),
                "queries": ctx.query_model.fingerprint if ctx.query_model else None,
            }
        return pinned

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Pack."""
        return pack(ctx, frames)


PACK = Pack()
