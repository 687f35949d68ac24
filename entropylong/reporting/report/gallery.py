"""Roots to read: entropy as colour, anchors, and of each dependency shown the sentence of its context that answers. Spark.

Which sentence answers is measured, not guessed: the context is read again without each of its sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from entropylong.models.cache import load
from entropylong.packing.stage import PACK
from entropylong.reporting.inspect import FULL_COLOUR_NATS, chunk_rows, context_read
from entropylong.reporting.report.sentences import Sentence, sentences, token_texts, weigh, without_each
from entropylong.utils.hashing import xxhash64
from entropylong.verification.measuring import Pair, measure
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.pipeline.state import PipelineState

# Roots: those with the most dependencies, and as many drawn by hash, so that not only the best are seen.
BEST, DRAWN = 3, 3
# Dependencies of a root whose sentences are told apart.
SHOWN = 2
_ASKED = "number INT, root_ids ARRAY<INT>, context STRING, position INT"
_READ = "number INT, piece INT, entropy DOUBLE"


@dataclass(frozen=True)
class Token:
    """A token of a root: its text, entropy (None where it has none), and the number of its anchor, from 1; 0: no anchor."""

    text: str
    entropy: float | None
    anchor: int

    @property
    def heat(self) -> int:
        """Strength of its colour, 0 to 10."""
        return round(10 * min(1.0, max(0.0, self.entropy or 0.0) / FULL_COLOUR_NATS))


@dataclass(frozen=True)
class Shown:
    """A dependency: the number of its anchor, the token there and text before it, what was measured, its context."""

    anchor: int
    before: str
    token: str
    entropy: float
    entropy_with: float
    gain: float
    excess: float | None
    rank: int
    score: float
    source: str
    context: list[Sentence]


@dataclass(frozen=True)
class Root:
    """A root of the gallery; `drawn`: by hash, not for its many dependencies."""

    root_id: str
    drawn: bool
    tokens: list[Token]
    anchors: int
    candidates: int
    dependencies: int
    shown: list[Shown]


def gallery(state: PipelineState) -> list[Root]:
    """The roots, the richest first, then those drawn."""
    value = state.fingerprint("sequences") or "-"
    packed = state.store.read_ok("sequences", value).select(F.explode("dependencies.root_id").alias("root_id"))
    counted = {row.root_id: row["count"] for row in packed.groupBy("root_id").count().collect()}
    best = sorted(counted, key=lambda root: (-counted[root], root))[:BEST]
    rest = [root for root in counted if root not in best]
    by_hash = sorted(rest, key=lambda root: (xxhash64(state.config.seed, "gallery", root), root))[:DRAWN]
    chosen = [*best, *by_hash]
    frames = state.frames(PACK)
    is_chosen = F.col("root_id").isin(chosen)
    scored = {row.root_id: row for row in frames["scored_documents"].where(is_chosen).collect()}
    anchors = {row.root_id: row.anchors for row in frames["anchors"].where(is_chosen).collect()}
    readings = (
        state.readings().where(is_chosen & (F.col("kind") == ReadingKind.RETRIEVED)).orderBy("root_id", F.desc("gain")).collect()
    )
    chunks = chunk_rows(state, [reading.chunk_id for reading in readings if reading.accepted])
    tokenizer = load(state.context.causal_lm.tokenizer())
    links = {root: _to_show([reading for reading in readings if reading.root_id == root and reading.accepted]) for root in chosen}
    every = [reading for root in chosen for reading in links[root]]
    contexts = [context_read(tokenizer, chunks[reading.chunk_id].text, state.config.contexts.max_tokens) for reading in every]
    answers = iter(_weighed(state, every, [list(scored[reading.root_id].input_ids) for reading in every], contexts))
    roots = []
    for root in chosen:
        row, positions = scored[root], [anchor.position for anchor in anchors[root]]
        numbers = {position: number for number, position in enumerate(positions, start=1)}
        texts = token_texts(tokenizer, list(row.input_ids))
        profile = np.frombuffer(row.entropy, "<f4")
        tokens = [
            Token(text, float(h) if np.isfinite(h) else None, numbers.get(place, 0))
            for place, (text, h) in enumerate(zip(texts, profile.tolist(), strict=True))
        ]
        dependencies = [_shown(reading, numbers, texts, chunks[reading.chunk_id].doc_id, next(answers)) for reading in links[root]]
        candidates = len({reading.chunk_id for reading in readings if reading.root_id == root})
        roots.append(Root(root, root in by_hash, tokens, len(positions), candidates, counted[root], dependencies))
    return roots


def _to_show(accepted: list[Any]) -> list[Any]:
    """The strongest, of different anchors and contexts."""
    chosen: list[Any] = []
    for reading in accepted:
        if len(chosen) < SHOWN and all(c.position != reading.position and c.chunk_id != reading.chunk_id for c in chosen):
            chosen.append(reading)
    return sorted(chosen, key=lambda reading: reading.position)


def _weighed(state: PipelineState, readings: list[Any], roots: list[list[int]], contexts: list[str]) -> list[list[Sentence]]:
    """Of each dependency its context's sentences. Executors: the causal LM reads it whole and without each of them."""
    if not readings:
        return []
    ctx = state.context
    worker, separator, batch_tokens = ctx.causal_lm, state.config.separator, state.config.run.batch_tokens
    rows = [
        (n, root, context, reading.position)
        for n, (reading, root, context) in enumerate(zip(readings, roots, contexts, strict=True))
    ]

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = load(worker)
        pairs = []
        for batch in batches:
            for row in batch.to_pylist():
                root, at = np.array(row["root_ids"], np.int32), np.array([row["position"]], np.int32)
                texts = [row["context"], *without_each(sentences(row["context"]))]
                pairs += [
                    Pair(root, np.array(model.encode(text), np.int32), at, (row["number"], n)) for n, text in enumerate(texts)
                ]
        measurements = measure(model, pairs, separator_ids=model.encode(separator), batch_tokens=batch_tokens)
        for pair, reading in measurements:
            number, piece = pair.tag
            yield pa.RecordBatch.from_pydict(
                {"number": pa.array([number], pa.int32()), "piece": pa.array([piece], pa.int32()),
                 "entropy": pa.array([float(reading.entropy_with[0])], pa.float64())}
            )  # fmt: skip

    frame = ctx.spark.createDataFrame(rows, _ASKED).repartition(min(ctx.cores, len(rows)), "number")
    read = {(row.number, row.piece): row.entropy for row in frame.mapInArrow(run, _READ).collect()}
    answers = []
    for n, (reading, context) in enumerate(zip(readings, contexts, strict=True)):
        pieces = sentences(context)
        answers.append(weigh(pieces, reading.entropy, read[n, 0], [read[n, piece + 1] for piece in range(len(pieces))]))
    return answers


def _shown(reading: Any, numbers: dict[int, int], texts: list[str], source: str, context: list[Sentence]) -> Shown:
    before = "".join(texts[max(0, reading.position - 24) : reading.position])
    return Shown(
        numbers[reading.position], before, texts[reading.position], reading.entropy, reading.entropy_with, reading.gain,
        reading.excess_gain, reading.rank, reading.score, source, context,
    )  # fmt: skip
