"""`verify.budget_tokens`: the pairs of a root, the best first, in waves, until its accepted contexts fill its budget. Pure numpy.

The acceptance rule decides here what is measured: it only orders and stops, readings stay what they are. A verdict between two
waves is provisional, as a later wave brings more controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from entropylong.verification.measuring import PairReading
from entropylong.verification.planning import Anchor, PairKind
from entropylong.verification.rules.acceptance import ReadingKind, Readings, judge
from entropylong.verification.rules.base import Rule

# Candidates of a wave: what a root measures beyond its budget at most, and enough for full batches with its neighbours.
WAVE = 4


@dataclass(frozen=True)
class Measured:
    """What one pass found at one anchor."""

    entropy_with: float
    nll_with: float
    copy_len: int


@dataclass
class Visit:
    """A pair of a root, and what is known of it.

    Attributes:
        key: its place among the pairs of its root.
        kind: candidate or random.
        tokens: of the chunk.
        anchors: where it is to be read.
        unread: positions that nobody has read yet.
        readings: position -> what was measured.
    """

    key: int
    kind: str
    tokens: int
    anchors: Sequence[Anchor]
    unread: Sequence[int]
    readings: dict[int, Measured] = field(default_factory=dict)

    @property
    def order(self) -> tuple[int, float]:
        """Best rank first, then the best score."""
        return min((a.rank, -(a.score or 0.0)) for a in self.anchors if a.rank is not None)

    def observe(self, positions: Sequence[int], reading: PairReading) -> None:
        """Note what a pass found."""
        results = zip(positions, reading.entropy_with, reading.nll_with, reading.copy_len, strict=True)
        self.readings |= {position: Measured(float(h), float(n), int(c)) for position, h, n, c in results}


class RootWaves:
    """The pairs of one root, wave by wave.

    Args:
        visits: its pairs.
        rule: the acceptance rule that says when the budget is full.
        budget: tokens of accepted contexts; None visits all pairs in one wave.
    """

    def __init__(self, visits: Sequence[Visit], rule: Rule, budget: int | None) -> None:
        controls = [visit for visit in visits if visit.kind == PairKind.RANDOM]
        candidates = sorted((visit for visit in visits if visit.kind != PairKind.RANDOM), key=lambda visit: visit.order)
        size = WAVE if budget is not None else max(1, len(candidates))
        first, *later = [candidates[start : start + size] for start in range(0, len(candidates), size)] or [[]]
        self._waves = [controls + first, *later]
        self._visited: list[Visit] = []
        self._rule, self._budget = rule, budget

    def next_wave(self) -> list[Visit]:
        """The next pairs that hold something unread; nothing when all are visited or the budget is full."""
        while self._waves and not self.is_full():
            wave = self._waves.pop(0)
            self._visited += wave
            if unread := [visit for visit in wave if visit.unread]:
                return unread
        return []

    def is_full(self) -> bool:
        """Whether the contexts accepted so far fill the budget."""
        return self._budget is not None and self.accepted_tokens() >= self._budget

    def accepted_tokens(self) -> int:
        """Tokens of the distinct chunks that the rule accepts, from what is measured so far."""
        rows = [(visit, anchor, visit.readings[anchor.position]) for visit in self._visited for anchor in visit.anchors
                if anchor.position in visit.readings]  # fmt: skip
        if not rows:
            return 0
        readings = Readings(
            position=np.array([anchor.position for _, anchor, _ in rows], np.int32),
            kind=np.array([_reading_kind(visit, anchor) for visit, anchor, _ in rows], object),
            entropy=np.array([anchor.entropy for _, anchor, _ in rows]),
            nll=np.array([anchor.nll for _, anchor, _ in rows]),
            entropy_with=np.array([reading.entropy_with for _, _, reading in rows]),
            nll_with=np.array([reading.nll_with for _, _, reading in rows]),
            copy_len=np.array([reading.copy_len for _, _, reading in rows], np.int32),
        )
        accepted = judge(readings, self._rule).accepted
        chunks = {visit.key: visit.tokens for (visit, _, _), yes in zip(rows, accepted.tolist(), strict=True) if yes}
        return sum(chunks.values())

    def unvisited(self) -> list[Visit]:
        """The pairs that the budget left unread."""
        return [visit for wave in self._waves for visit in wave if visit.unread]


def _reading_kind(visit: Visit, anchor: Anchor) -> str:
    if visit.kind == PairKind.RANDOM:
        return ReadingKind.RANDOM
    return ReadingKind.SAME_ROOT if anchor.rank is None else ReadingKind.RETRIEVED
