"""Measuring a root's pairs under a budget or a screen: waves, proposals, and a reason for each pair left out. Pure torch.

Without either, `measure` reads every pair and this module is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from entropylong.models.causal_lm import CausalLM
from entropylong.verification.acceptance import Rule
from entropylong.verification.measuring import Ints, Pair, PairReading, measure
from entropylong.verification.ordering import Order, features
from entropylong.verification.planning import CANDIDATE
from entropylong.verification.screening import LEFT_WINDOW, Candidate, Screen, entropy_alone, screen_gains
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
        order: which candidates a budget visits first; None goes by rank.
        window: `query.window` and `query.side`, of which an anchor's query was made.
        digests: stand for it in the rows that are its own: first all of it and the plan that it chose among, in what it writes;
            then the same without a budget, if an order was learned that way.
    """

    budget: int | None
    rule: Rule
    screen: Screen | None
    order: Order | None
    window: tuple[int, str]
    digests: tuple[str, ...]


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
    screen_model: CausalLM | None,
    roots: Iterable[RootWork],
    selection: Selection,
    *,
    separator_ids: Sequence[int],
    batch_tokens: int,
) -> Iterator[Outcome]:
    """An outcome for each pair that holds something unread."""
    for together in _together(roots):
        waves = [(work, _waves(work, selection)) for work in together]
        baselines = _baselines(screen_model or model, together, selection.screen, batch_tokens)
        while wave := [(work, visit) for work, root in waves for visit in root.next_wave()]:
            gains = _screen(screen_model or model, wave, baselines, selection.screen, separator_ids, batch_tokens)
            asked = []
            for (work, visit), gain in zip(wave, gains, strict=True):
                positions = np.array(visit.unread, np.int32)
                if _is_refused(work, gain, selection.screen):
                    yield Outcome(work, visit.key, positions, code=SCREENED_OUT, screen_gain=gain)
                else:
                    asked.append(Pair(work.root_ids, work.chunk_ids[visit.key], positions, (work, visit, gain)))
            for pair, reading in measure(model, asked, separator_ids=separator_ids, batch_tokens=batch_tokens):
                work, visit, gain = pair.tag
                visit.observe(pair.positions.tolist(), reading)
                yield Outcome(work, visit.key, pair.positions, reading, screen_gain=gain)
        for work, root in waves:
            for visit in root.unvisited():
                yield Outcome(work, visit.key, np.array(visit.unread, np.int32), code=BUDGET_FULL)


def _waves(work: RootWork, selection: Selection) -> RootWaves:
    order = selection.order
    if order is None:
        return RootWaves(work.visits, selection.rule, selection.budget)

    def odds(visit: Visit) -> float:
        return float(order.log_odds([features(visit.anchors, work.root_ids, work.chunk_ids[visit.key], selection.window)])[0])

    return RootWaves(work.visits, selection.rule, selection.budget, odds)


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


Baselines = dict[str, dict[int, float]]


def _baselines(model: CausalLM, works: Sequence[RootWork], screen: Screen | None, batch_tokens: int) -> Baselines:
    """Root -> position -> H without a chunk at all anchors that retrieved one: read once a root, whatever its waves."""
    if screen is None:
        return {}
    known = {
        work.root_id: {a.position: a.entropy for visit in work.visits for a in visit.anchors if a.rank is not None}
        for work in works
    }
    if screen.kind == LEFT_WINDOW:
        return known
    asked = [(work.root_ids, np.array(sorted(known[work.root_id]), np.int32)) for work in works if known[work.root_id]]
    alone = iter(entropy_alone(model, asked, batch_tokens))
    return {root: next(alone) if positions else {} for root, positions in known.items()}


def _screen(
    model: CausalLM,
    wave: Sequence[tuple[RootWork, Visit]],
    baselines: Baselines,
    screen: Screen | None,
    separator_ids: Sequence[int],
    batch_tokens: int,
) -> list[dict[int, float]]:
    """Position -> gain of each candidate of a wave; nothing for a control, which is always measured."""
    found: list[dict[int, float]] = [{} for _ in wave]
    if screen is None:
        return found
    places, candidates = [], []
    for i, (work, visit) in enumerate(wave):
        retrieved = [anchor for anchor in visit.anchors if anchor.rank is not None]
        if visit.kind == CANDIDATE and retrieved:
            positions = np.array([anchor.position for anchor in retrieved], np.int32)
            entropy = np.array([baselines[work.root_id][anchor.position] for anchor in retrieved])
            places.append(i)
            candidates.append(Candidate(work.root_ids, work.chunk_ids[visit.key], positions, entropy))
    gains = screen_gains(screen, model, candidates, separator_ids, batch_tokens)
    for i, candidate, gain in zip(places, candidates, gains, strict=True):
        found[i] = dict(zip(candidate.positions.tolist(), gain.tolist(), strict=True))
    return found
