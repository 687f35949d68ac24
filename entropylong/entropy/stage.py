"""Spark stages `score` and `anchors`: roots -> entropy profiles -> high-entropy positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from entropylong.core.balance import spread
from entropylong.core.context import CHARS_A_TOKEN, Frames, StageContext
from entropylong.core.stage import Resource, StreamStage
from entropylong.core.udf import Row, Rows, map_rows, map_stream
from entropylong.corpus.exclusion import EXCLUDE, open_excluded
from entropylong.corpus.roots import PIECE, SPLIT, doc_id_of
from entropylong.corpus.selection import is_root
from entropylong.entropy.anchors import find_anchors
from entropylong.entropy.scoring import Refusal, score_texts
from entropylong.entropy.word_starts import word_starts
from entropylong.models.cache import load
from entropylong.storage.schemas import ANCHORS, OK, SCORED_DOCUMENTS
from entropylong.utils.isolation import refused


def score(ctx: StageContext, frames: Frames) -> DataFrame:
    """Entropy and NLL of every position of every root. Driver: plan only. Executors: the causal LM, once a worker."""
    worker, roots, batch_tokens, excluded = ctx.causal_lm, ctx.config.roots, ctx.config.run.batch_tokens, ctx.excluded

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        grams = open_excluded(excluded)
        results = score_texts(
            load(worker),
            ((row["doc_id"], row["text"]) for row in rows),
            min_tokens=roots.min_tokens,
            max_tokens=roots.max_tokens,
            long=roots.long,
            batch_tokens=batch_tokens,
            shares_with=grams.shared if grams is not None else lambda text: None,
        )
        for root_id, result in results:
            keys = {"root_id": root_id, "doc_id": doc_id_of(root_id, roots.long)}
            if isinstance(result, Refusal):
                yield keys | refused(result.code, result.detail, result.outcome)
            else:
                yield keys | {
                    "input_ids": result.ids.tolist(),
                    "n_tokens": len(result.ids),
                    "entropy": result.entropy.astype("<f4").tobytes(),
                    "nll": result.nll.astype("<f4").tobytes(),
                    "outcome": OK,
                }

    tokens = F.least(F.length("text") / CHARS_A_TOKEN, F.lit(roots.max_tokens))
    documents = spread(ctx, frames["documents"].select("doc_id", "text"), ["doc_id"], ctx.cost(tokens))
    return map_stream(documents, SCORED_DOCUMENTS, ctx.meter, run)


def anchors(ctx: StageContext, frames: Frames) -> DataFrame:
    """Positions above mean + alpha * std of each profile. Executors: numpy (and the tokenizer for word_start_only)."""
    rule, tokenizer = ctx.config.anchors, ctx.causal_lm.tokenizer()

    def run(rows: Rows) -> Iterator[dict[str, Any]]:
        for row in rows:
            entropy, nll = np.frombuffer(row["entropy"], "<f4"), np.frombuffer(row["nll"], "<f4")
            anchor_set = find_anchors(
                entropy,
                alpha=rule.alpha,
                min_position=rule.min_position,
                min_gap=rule.min_gap,
                max_per_root=rule.max_per_root,
                eligible=word_starts(load(tokenizer), row["input_ids"]) if rule.word_start_only else None,
            )
            result: dict[str, Any] = {"root_id": row["root_id"]}
            if not np.isnan(anchor_set.mean):
                result |= {"entropy_mean": anchor_set.mean, "entropy_std": anchor_set.std, "threshold": anchor_set.threshold}
            if len(anchor_set.positions):
                result["anchors"] = [
                    {"position": p, "entropy": float(entropy[p]), "nll": float(nll[p])} for p in anchor_set.positions.tolist()
                ]
                yield result | {"outcome": OK}
            else:
                yield result | refused("NO_ANCHOR", "no eligible position exceeds the threshold", "skipped")

    return map_rows(frames["scored_documents"].select("root_id", "input_ids", "entropy", "nll"), ANCHORS, run)


class Score(StreamStage):
    """Roots -> entropy profiles."""

    name = "score"
    version = 1
    reads = ("documents",)
    writes = "scored_documents"
    key = ("doc_id",)
    config = ("roots.min_tokens", "roots.max_tokens", "roots.long", "model.document_start_id", EXCLUDE)
    counted = "documents"
    models = ("model",)
    resources = Resource.GPU
    when_empty = "no root document; give a source the role root or both, or raise roots.share"
    purpose = "entropy of every position of every root (paper, Stage 1)"

    def driving(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Take the documents that `roots` chooses."""
        names = ctx.config.sources_with_role("root")
        return frames["documents"].where(F.col("source").isin(names) & is_root(ctx, F.col("doc_id")))

    def choice(self, ctx: StageContext) -> object:
        """Name the threshold and the sources that choose roots."""
        return [ctx.root_threshold, ctx.config.sources_with_role("root")]

    def refuse(self, ctx: StageContext, rows: DataFrame) -> DataFrame:
        """Refuse a document that kills its worker as a whole: nobody knows how many pieces it has."""
        own = F.col("doc_id")
        first = F.when(own.rlike(PIECE), F.concat(own, F.lit("#0"))).otherwise(own)
        return rows.select((first if ctx.config.roots.long == SPLIT else own).alias("root_id"), "doc_id")

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Run the causal LM over roots."""
        return score(ctx, frames)


class Anchors(StreamStage):
    """Entropy profiles -> anchors."""

    name = "anchors"
    version = 1
    reads = ("scored_documents",)
    writes = "anchors"
    key = ("root_id",)
    config = ("anchors",)
    counted = "roots"
    when_empty = "no root was scored; lower roots.min_tokens or choose more roots (roots.limit, roots.share)"
    purpose = "positions whose entropy exceeds mean + alpha * std (paper, Stage 1)"

    def build(self, ctx: StageContext, frames: Frames) -> DataFrame:
        """Find anchors."""
        return anchors(ctx, frames)


SCORE, ANCHOR = Score(), Anchors()
