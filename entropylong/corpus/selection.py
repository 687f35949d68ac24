"""Which documents are roots, held out or planted, as columns of Spark."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from entropylong.config import Config
from entropylong.core.context import StageContext
from entropylong.corpus.roots import PIECE, SPLIT
from entropylong.corpus.sources.canaries import PREFIX
from entropylong.corpus.sources.registry import planted_sources
from entropylong.utils.hashing import share_threshold


def is_root(ctx: StageContext, doc_id: Column) -> Column:
    """Whether `roots` chooses a document: its hash is at or below the resolved threshold, or it is a canary."""
    chosen = root_hash(ctx.config, doc_id) <= F.lit(ctx.root_threshold)
    return chosen | is_canary(doc_id) if has_canaries(ctx.config) else chosen


def is_held_out(config: Config, doc_id: Column) -> Column:
    """Whether `pack.held_out` leaves a document out. Its hash has nothing to do with the one that chooses roots."""
    hashed = F.xxhash64(F.lit(config.seed).cast("bigint"), F.lit("held_out"), doc_id)
    return hashed > F.lit(share_threshold(1.0 - config.pack.held_out))


def has_canaries(config: Config) -> bool:
    """Whether a source plants any."""
    return bool(planted_sources(config))


def is_canary(doc_id: Column) -> Column:
    """Whether a document, or the root that it is, was planted."""
    return doc_id.startswith(PREFIX)


def root_doc_id(config: Config, root_id: str = "root_id") -> Column:
    """The document that a root is, or is a piece of."""
    return F.regexp_replace(root_id, PIECE, "") if config.roots.long == SPLIT else F.col(root_id)


def is_chosen(ctx: StageContext) -> Column:
    """Whether `roots` chooses the document of a `root_id`."""
    return is_root(ctx, root_doc_id(ctx.config))


def choice_of_roots(ctx: StageContext) -> list[object]:
    """What decides which documents `is_root` and `is_chosen` choose."""
    return [ctx.root_threshold, ctx.config.semantic("seed", "roots"), sorted(planted_sources(ctx.config))]


def root_hash(config: Config, doc_id: Column) -> Column:
    return F.xxhash64(F.lit(config.seed).cast("bigint"), doc_id)
