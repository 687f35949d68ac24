"""The plan of a run: rows, tokens, FLOPs, device hours, memory, shuffle and storage bytes of each stage. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entropylong.config import Config
from entropylong.core.batches import BUCKET_TOKENS, CORE_BATCH_BYTES, MODEL_PART, MOST_UNITS
from entropylong.models.hardware import Rate, rate_of
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.models.shape import KNOWN, ModelShape, shape_of
from entropylong.planning.corpus import CorpusSize, corpus_size
from entropylong.planning.retrieval import CORE_FLOPS, NODE_BYTES, RetrievalPlan, plan_retrieval
from entropylong.planning.sizes import ANCHOR_SHARE, Sizes, sizes_of
from entropylong.planning.verification import Way, ways_to_verify

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Bytes on disk, measured on docstrings in Parquet with snappy: of a character of text, of a token id.
TEXT_BYTES, ID_BYTES = 0.52, 1.7
# Bytes of a row in memory and in a shuffle: of a token id, of an anchor with rank and score.
ID_ROW_BYTES, ANCHOR_ROW_BYTES = 4, 24
# Of what tells copies of a document: id, hash, source and origin.
KEY_BYTES = 100
# In memory of packing, a token: ids that come in, seven bytes beside them, four that go out.
BUCKET_BYTES = 15
# Seconds of one core a row, by `make rehearsal`: small documents, Python and the JVM together.
ROW_SECONDS = {"ingest": 3e-4, "chunk": 1.5e-4, "anchors": 1e-3, "contexts": 3e-4}
# Of a row's other columns, and of a table's statistics.
ROW_BYTES = 32
# Scratch of the head, and what Python, torch and Arrow take beside a model.
WORKER_BYTES = 1.5e9
# More memory than a node has, or more core hours than anybody would spend, is told.
MANY_CORE_HOURS = 100_000


@dataclass(frozen=True)
class StagePlan:
    """One stage. None where nothing of the kind is spent, or where it is bound by the storage and not reckoned.

    Attributes:
        rows: that it writes.
        tokens, flops, device_hours: of its forward passes.
        core_hours: of work on cores: a search, or rows at the pace that was measured of them.
        memory: bytes that one worker holds (of `index` the driver, of a search in broadcast mode a node).
        read: bytes that it reads of its sources and of tables.
        commits: that it makes.
        shuffle: bytes of rows between its tasks, before compression.
        storage: bytes that it adds to the tables.
    """

    stage: str
    rows: float
    tokens: float | None = None
    flops: float | None = None
    device_hours: float | None = None
    core_hours: float | None = None
    memory: float | None = None
    read: float = 0.0
    commits: float = 1.0
    shuffle: float = 0.0
    storage: float = 0.0


@dataclass(frozen=True)
class Plan:
    """All that `entropylong plan` tells.

    Attributes:
        sizes: rows and tokens.
        stages: in order.
        ways: of verification, the literal one first.
        rate: of the device.
        assumptions: what was reckoned with, a sentence each.
        warnings: what would not go well.
    """

    sizes: Sizes
    stages: list[StagePlan]
    ways: list[Way]
    rate: Rate
    assumptions: list[str]
    warnings: list[str]

    def hours(self, flops: float) -> float:
        """Device hours of so many FLOPs."""
        return flops / self.rate.flops / 3600

    def as_json(self) -> dict[str, Any]:
        """The same in plain values: `sizes`, `stages`, `verification`, `rate`, `assumptions`, `warnings`."""
        literal = self.ways[0].work
        ways = [
            {"way": way.name, "about": way.about, "configured": way.configured, **asdict(way.work),
             "device_hours": self.hours(way.work.flops), "times_cheaper": literal.flops / way.work.flops}
            for way in self.ways
        ]  # fmt: skip
        return {
            "sizes": asdict(self.sizes),
            "stages": [asdict(stage) for stage in self.stages],
            "verification": ways,
            "rate": asdict(self.rate),
            "assumptions": self.assumptions,
            "warnings": self.warnings,
        }


def make_plan(config: Config, session: Callable[[], SparkSession]) -> Plan:
    """The plan of a run of this config.

    Args:
        config: any; its `plan` section holds what cannot be known beforehand.
        session: starts Spark, for a source that is a table.

    Raises:
        ConfigError: the corpus has no size, or its numbers contradict each other.
        ModelError: a model's shape is neither known nor to be had.
        SourceError: a source is not there.
    """
    corpus = corpus_size(config, session)
    sizes = sizes_of(config, corpus)
    shape = model_shape(config, config.model.name, config.model.revision)
    encoder = model_shape(config, config.encoder.name, config.encoder.revision)
    rate = rate_of(config, shape)
    ways = ways_to_verify(config, sizes, shape)
    retrieval = plan_retrieval(config, sizes.chunks, sizes.queries, encoder.width)
    stages = _stages(config, corpus, sizes, shape, encoder, rate, next(way for way in ways if way.configured), retrieval)
    return Plan(sizes, stages, ways, rate, _assumptions(config, corpus, rate, retrieval), _warnings(config, sizes, stages))


def model_shape(config: Config, name: str, revision: str | None) -> ModelShape:
    """The published shape of a well-known model; of any other the one in its folder, which is prepared if need be."""
    return KNOWN.get(name) or shape_of(prepare(ModelSpec(name, revision), Path(config.node_cache).expanduser()).path)


def _stages(
    config: Config,
    corpus: CorpusSize,
    sizes: Sizes,
    shape: ModelShape,
    encoder: ModelShape,
    rate: Rate,
    way: Way,
    retrieval: RetrievalPlan,
) -> list[StagePlan]:
    lm, text = _weights(config, shape) + WORKER_BYTES, corpus.chars
    vector, ids = 2 * encoder.width, ID_ROW_BYTES * sizes.root_tokens
    corpus_chars = corpus.corpus * text
    window = 2 * config.query.window if config.query.side == "both" else config.query.window

    def forward(of: ModelShape, number: float, tokens: float, rows: float = 0.0) -> dict[str, float]:
        flops = number * of.flops(tokens, tokens * tokens / (1 if of is encoder else 2), rows)
        return {"tokens": number * tokens, "flops": flops, "device_hours": flops / rate.flops / 3600}

    batch = _batch_bytes(config)

    def commits(n_bytes: float, size: float) -> float:
        return max(1.0, math.ceil(n_bytes / size))

    units = min(commits(sizes.roots, config.run.roots_per_unit), MOST_UNITS)
    # As tables hold it, and as it is read from a source.
    documents, chunks = TEXT_BYTES * sizes.documents * text, TEXT_BYTES * corpus_chars + ROW_BYTES * sizes.chunks
    pairs = sizes.pairs + sizes.controls
    reads = sizes.anchors if config.verify.scope == "all" else config.plan.anchors_per_pair
    readings = sizes.pairs * reads + sizes.controls * sizes.anchors
    pair_rows = ROW_BYTES * pairs + ANCHOR_ROW_BYTES * readings
    # Chunks that pairs name: drawn with replacement, as if all were retrieved alike.
    contexts = sizes.chunks * -math.expm1(-pairs / sizes.chunks) if sizes.chunks else 0.0
    context_ids = contexts * (ROW_BYTES + ID_BYTES * sizes.context_tokens)
    verified = {"tokens": way.work.tokens, "flops": way.work.flops, "device_hours": way.work.flops / rate.flops / 3600}
    packed = sizes.sequences * config.pack.length
    scored = sizes.roots * (ROW_BYTES + sizes.root_tokens * (ID_BYTES + 8))
    gains = pairs * ROW_BYTES + 14 * readings
    hashes = 16 * sizes.chunks
    buckets = config.pack.buckets
    bucket = packed / buckets if buckets != "auto" else min(packed, BUCKET_TOKENS)
    return [
        # Sources are read for their keys, then for their text. Keys go by id and by hash.
        StagePlan("ingest", sizes.documents, core_hours=_core_hours("ingest", sizes.documents), read=2 * sizes.documents * text,
                  commits=commits(sizes.documents * text, batch), shuffle=2 * KEY_BYTES * sizes.documents,
                  storage=documents + ROW_BYTES * sizes.documents),
        StagePlan("chunk", sizes.chunks, core_hours=_core_hours("chunk", sizes.chunks), read=documents,
                  commits=commits(documents, batch), storage=chunks),
        StagePlan("embed", sizes.chunks, **forward(encoder, sizes.chunks, sizes.chunk_tokens),
                  memory=_weights(config, encoder) + WORKER_BYTES, read=chunks, commits=commits(chunks, batch / MODEL_PART),
                  shuffle=corpus_chars, storage=sizes.chunks * (vector + 16)),
        StagePlan("index", sizes.chunks, core_hours=retrieval.index_core_hours or None, memory=retrieval.index_memory,
                  read=sizes.chunks * (vector + 16), commits=commits(sizes.chunks, config.run.vectors_per_unit),
                  shuffle=retrieval.index_shuffle, storage=retrieval.index_storage),
        StagePlan("score", sizes.roots, **forward(shape, sizes.roots, sizes.root_tokens + 1, sizes.root_tokens), memory=lm,
                  read=documents, commits=commits(documents, batch), shuffle=sizes.roots * text, storage=scored),
        StagePlan("anchors", sizes.roots, core_hours=_core_hours("anchors", sizes.roots), read=scored,
                  commits=commits(scored, batch), storage=sizes.roots * (ROW_BYTES + 12 * sizes.anchors)),
        StagePlan("search", sizes.queries, **forward(encoder, sizes.queries, window),
                  core_hours=retrieval.search_core_hours, memory=retrieval.search_memory,
                  read=sizes.roots * ID_BYTES * sizes.root_tokens + hashes + 2 * sizes.queries * vector, commits=2 * units,
                  shuffle=sizes.roots * ids + 2 * sizes.queries * vector + retrieval.search_shuffle + hashes,
                  storage=sizes.queries * (vector + 16 + 12 * config.retrieval.top_k)),
        # Hits meet the hashes of their chunks, then their roots.
        StagePlan("pairs", pairs, read=12 * sizes.cells + 2 * hashes, commits=units,
                  shuffle=2 * ROW_BYTES * sizes.cells + hashes, storage=pair_rows),
        # Chunks that are named meet their texts, each once.
        StagePlan("contexts", contexts, core_hours=_core_hours("contexts", contexts), read=chunks + 8 * pairs,
                  shuffle=8 * pairs + contexts * (8 + text_bytes(sizes)), storage=context_ids),
        # Pairs meet the ids of their chunks; those of a root travel once.
        StagePlan("verify", pairs, **verified, memory=lm, read=2 * pair_rows + context_ids + scored, commits=units,
                  shuffle=2 * (pair_rows + pairs * ID_ROW_BYTES * sizes.context_tokens + sizes.roots * ids), storage=gains),
        StagePlan("pack", sizes.sequences, memory=BUCKET_BYTES * bucket + WORKER_BYTES,
                  read=pair_rows + gains + context_ids + scored,
                  shuffle=3 * ANCHOR_ROW_BYTES * readings + 2 * ID_ROW_BYTES * packed, storage=ID_BYTES * packed),
    ]  # fmt: skip


def _batch_bytes(config: Config) -> int:
    stated = config.run.batch_bytes
    return CORE_BATCH_BYTES * config.plan.cores if stated == "auto" else stated


def _core_hours(stage: str, rows: float) -> float:
    return ROW_SECONDS[stage] * rows / 3600


def text_bytes(sizes: Sizes) -> float:
    """Of a chunk's text in a row, at four characters a token."""
    return 4 * sizes.chunk_tokens


def _weights(config: Config, shape: ModelShape) -> float:
    body = 4 if config.model.dtype == "float32" else 2
    # Embeddings, and a head of its own in float32 at worst.
    return shape.body_parameters * body + shape.width * shape.vocabulary * (body + 4)


def _assumptions(config: Config, corpus: CorpusSize, rate: Rate, retrieval: RetrievalPlan) -> list[str]:
    plan, batch = config.plan, _batch_bytes(config)
    anchors = (
        f"plan.anchors_per_root = {plan.anchors_per_root:g}"
        if plan.anchors_per_root is not None
        else f"anchors: {ANCHOR_SHARE:.0%} of a root's positions at alpha 2, falling with alpha as the paper's counts do"
    )
    return [
        corpus.basis,
        f"plan.chars_per_token = {plan.chars_per_token:g}",
        "plan.root_tokens = " + (f"{plan.root_tokens:,}" if plan.root_tokens else "as of a document, within the limits of roots"),
        anchors,
        f"plan.anchors_per_pair = {plan.anchors_per_pair:g} (m)",
        f"plan.accepted_share = {plan.accepted_share:g} of the candidate pairs, at any rank",
        f"plan.proposed_share = {plan.proposed_share:g} of them proposed by a screen",
        "anchors lie evenly over a root: the last of n at n / (n + 1) of it",
        rate.basis + "; the encoder is taken to reach the same",
        "the encoder reads whole chunks: at most, as one with a short window cuts them",
        f"retrieval: {retrieval.mode_and_cells}; {CORE_FLOPS / 1e9:.0f} GFLOP/s a core",
        f"on disk {TEXT_BYTES} bytes a character and {ID_BYTES} a token id; shuffles before compression, once and without retries",
        f"a commit takes {batch / 2**20:,.0f} MiB of input (run.batch_bytes, at plan.cores = {config.plan.cores:,}); where all "
        f"rows go through a model, a {MODEL_PART}th of it",
        "the driver holds 35 MB of a batch, a name of each input file, and of the index what stands under its memory",
        "pairs and pack are bound by the storage: no hours are reckoned for them, nor for commits and starting Spark",
    ]


def _warnings(config: Config, sizes: Sizes, stages: list[StagePlan]) -> list[str]:
    by_name = {stage.stage: stage for stage in stages}
    warnings = []
    node, search = by_name["search"].memory or 0.0, by_name["search"].core_hours or 0.0
    if node > NODE_BYTES:
        warnings.append(
            f"search: {node / 1e12:,.1f} TB of vectors on every node; retrieval.mode=partitioned reads them once instead"
        )
    if search > MANY_CORE_HOURS:
        warnings.append(f"search: {search:,.0f} core hours; fewer anchors (anchors.max_per_root) or retrieval.nprobe cut it most")
    if config.verify.budget_tokens is None and (by_name["verify"].device_hours or 0.0) > 1000:
        warnings.append(
            "verify: every pair is measured; verify.budget_tokens, anchors.max_per_root and retrieval.top_k cut it most"
        )
    if sizes.sequences < 1:
        warnings.append(f"pack: not one full sequence of pack.length = {config.pack.length:,} tokens")
    return warnings
