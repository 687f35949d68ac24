"""Which (root, chunk) pairs to measure, at which anchors. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class PairKind(StrEnum):
    """Why a chunk is put before a root: an anchor retrieved it, or it is a control drawn at random."""

    CANDIDATE = "candidate"
    RANDOM = "random"


@dataclass(frozen=True)
class Anchor:
    """An anchor that a pair is to be read at.

    Attributes:
        position: 0-based in the root.
        entropy, nll: without any chunk, in nats (Stage 1).
        rank, score: of the chunk among the anchor's candidates; None where another anchor of the root retrieved it.
    """

    position: int
    entropy: float
    nll: float
    rank: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class PlannedPair:
    """A chunk to prepend to a root, and the anchors to read then."""

    chunk_id: int
    kind: str
    anchors: list[Anchor]


def plan_root(
    anchors: Sequence[Anchor], hits: Mapping[int, Sequence[tuple[int, float]]], random: Sequence[int], scope: str
) -> list[PlannedPair]:
    """The unique pairs of one root: one pass serves every anchor that retrieved the chunk.

    Args:
        anchors: the root's anchors, without rank and score.
        hits: anchor position -> (chunk id, score), by rank.
        random: control chunks, read at all anchors.
        scope: "retrieved" reads a candidate at the anchors that retrieved it, "all" at every anchor (the gain matrix).
    """
    everywhere = sorted(anchors, key=lambda anchor: anchor.position)
    by_chunk: dict[int, dict[int, tuple[int, float]]] = {}
    for position, chunks in hits.items():
        for rank, (chunk, score) in enumerate(chunks, start=1):
            by_chunk.setdefault(chunk, {})[position] = (rank, score)
    pairs = []
    for chunk, retrieved in sorted(by_chunk.items()):
        read = [anchor for anchor in everywhere if scope == "all" or anchor.position in retrieved]
        ranked = [Anchor(a.position, a.entropy, a.nll, *retrieved.get(a.position, (None, None))) for a in read]
        pairs.append(PlannedPair(chunk, PairKind.CANDIDATE, ranked))
    return pairs + [PlannedPair(chunk, PairKind.RANDOM, everywhere) for chunk in random]
