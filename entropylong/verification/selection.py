"""Measuring a root's pairs under a budget or a screen: waves, proposals, and a reason for each pair left out. Pure torch.

Without either, `measure` reads every pair and this module is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from entropylong.models.causal_lm import CausalLM
from entropylong.verification.measuring import Ints, Pair, PairReading, measure
from entropylong.verification.planning import PairKind
from entropylong.verification.rules.base import Rule
from entropylong.verification.screens import SCREENS
from entropylong.verification.screens.base import Candidate, Screen
from entropylong.verification.waves import RootWaves, Visit

BUDGET_FULL, SCREENED_OUT = "BUDGET_FULL", "SCREENED_OUT"
REASONS = {
    BUDGET_FULL: "the root's accepted contexts fill verify.budget_tokens",
    SCREENED_OUT: "verify.screen did not propose it",
}
# Pairs of several roots that are at work together, so that a wave fills its batches.
PAIRS_TOGETHER = 512


@dataclass(frozen=True)
class Selection:
    """What decides which pairs are measured.

    Attributes:
        budget: `verify.budget_tokens`.
        rule: the acceptance rule, which says when a budget is full.
        screen: `verify.screen`, or None.
        digest: the hash of all of it and of the plan that it chose among; the rows that it wrote have it.
    """

    budget: int | None
    rule: Rule
    screen: Screen | None
    digest: str


@dataclass(frozen=True)
class RootWork:
    """A root and its pairs; each visit's key is its place in `chunk_ids` and in `tags`, which the caller wants back."""

    root_id: str
    root_ids: Ints
    chunk_ids: Sequence[Ints]
    visits: Sequence[Visit]
    tags: Sequence[Any] = ()


@dataclass(frozen=True)
class Outcome:
    """A pair that was measured (`reading`) or left out (`code`, of `REASONS`), at its unread positions.

    Attributes:
        screen_gain: position -> the screen's gain, where it looked.
    """

    work: RootWork
    place: int
    positions: Ints
    reading: PairReading | None = None
    code: str = ""
    screen_gain: dict[int, float] = field(default_factory=dict)


def measure_selected(
    model: CausalLM,
    roots: Iterable[RootWork],
    selection: Selection,
    *,
    separator_ids: Sequence[int],
    batch_tokens: int,
) -> Iterator[Outcome]:
    """An outcome for each pair that holds something unread."""
    for together in _together(roots):
        waves = [(work, RootWaves(work.visits, selection.rule, selection.budget)) for work in together]
        while wave := [(work, visit) for work, root in waves for visit in root.next_wave()]:
            gains = _screen(model, wave, selection.screen, separator_ids, batch_tokens)
            pairs = []
            for (work, visit), gain in zip(wave, gains, strict=True):
                positions = np.array(visit.unread, np.int32)
                if _is_refused(work, gain, selection.screen):
                    yield Outcome(work, visit.key, positions, code=SCREENED_OUT, screen_gain=gain)
                else:
                    pairs.append(Pair(work.root_ids, work.chunk_ids[visit.key], positions, (work, visit, gain)))
            for pair, reading in measure(model, pairs, separator_ids=separator_ids, batch_tokens=batch_tokens):
                work, visit, gain = pair.tag
                visit.observe(pair.positions.tolist(), reading)
                yield Outcome(work, visit.key, pair.positions, reading, screen_gain=gain)
        for work, root in waves:
            for visit in root.unvisited():
                yield Outcome(work, visit.key, np.array(visit.unread, np.int32), code=BUDGET_FULL)


def _together(roots: Iterable[RootWork]) -> Iterator[list[RootWork]]:
    held: list[RootWork] = []
    for work in roots:
        held.append(work)
        if sum(len(w.visits) for w in held) >= PAIRS_TOGETHER:
            yield held
            held = []
    if held:
        yield held


def _is_refused(work: RootWork, gain: dict[int, float], screen: Screen | None) -> bool:
    if screen is None or not gain or screen.is_sample(work.root_id):
        return False
    # Not `max < min_gain`: a screen that saw no number proposes.
    return all(value < screen.min_gain for value in gain.values())


def _screen(
    model: CausalLM,
    wave: Sequence[tuple[RootWork, Visit]],
    screen: Screen | None,
    separator_ids: Sequence[int],
    batch_tokens: int,
) -> list[dict[int, float]]:
    """Position -> gain of each candidate of a wave; nothing for a control, which is always measured."""
    wave_gains: list[dict[int, float]] = [{} for _ in wave]
    reading = None if screen is None else SCREENS[screen.kind].reading
    if screen is None or reading is None:
        return wave_gains
    places, candidates = [], []
    for i, (work, visit) in enumerate(wave):
        retrieved = [anchor for anchor in visit.anchors if anchor.rank is not None]
        if visit.kind == PairKind.CANDIDATE and retrieved:
            positions = np.array([anchor.position for anchor in retrieved], np.int32)
            entropy = np.array([anchor.entropy for anchor in retrieved])
            places.append(i)
            candidates.append(Candidate(work.root_ids, work.chunk_ids[visit.key], positions, entropy))
    gains = reading.gains(screen, model, candidates, separator_ids, batch_tokens)
    for i, candidate, gain in zip(places, candidates, gains, strict=True):
        wave_gains[i] = dict(zip(candidate.positions.tolist(), gain.tolist(), strict=True))
    return wave_gains
