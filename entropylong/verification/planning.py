"""Which (root, chunk) pairs to measure, at which anchors. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CANDIDATE, RANDOM = "candidate", "random"


@dataclass(frozen=True)
class PlannedPair:
    """A chunk to prepend to a root, and the anchors to read then."""

    chunk_id: int
    kind: str
    positions: list[int]


def plan_root(anchors: Sequence[int], hits: Mapping[int, Sequence[int]], random: Sequence[int], scope: str) -> list[PlannedPair]:
    """The unique pairs of one root: one pass serves every anchor that retrieved the chunk.

    Args:
        anchors: positions of the root's anchors.
        hits: anchor position -> chunk ids by rank.
        random: control chunks, read at all anchors.
        scope: "retrieved" reads a candidate at the anchors that retrieved it, "all" at every anchor (the gain matrix).
    """
    retrieved_by: dict[int, list[int]] = {}
    for position in sorted(hits):
        for chunk in hits[position]:
            retrieved_by.setdefault(chunk, []).append(position)
    everywhere = sorted(anchors)
    pairs = [
        PlannedPair(chunk, CANDIDATE, everywhere if scope == "all" else positions)
        for chunk, positions in sorted(retrieved_by.items())
    ]
    return pairs + [PlannedPair(chunk, RANDOM, everywhere) for chunk in random]
