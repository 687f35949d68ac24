"""What `verify.order: learned` saves under a budget, against the order of ranks: passes of real roots, measured once and replayed.

Every candidate is measured, so what each order would have visited and accepted is known. The roots that an order is fitted on are
left out of what it is judged on; the fit is drawn again and again, as the roots at hand are few.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from entropylong.verification.learning import LEAST_ROOTS
from entropylong.verification.ordering import BY_RANK, Order, features, fit_order
from pyspark.sql import DataFrame

from benchmarks.timing import record, say
from entropylong.pipeline.open import open_runner
from entropylong.pipeline.steps import MEASURED, step_writing
from entropylong.utils.hashing import xxhash64
from entropylong.verification.acceptance import Rule
from entropylong.verification.planning import CANDIDATE, Anchor
from entropylong.verification.readings import acceptance_rule
from entropylong.verification.waves import Measured, RootWaves, Visit

# Docstrings that refer to each other, in roots long enough to have a choice of candidates.
SETTING = ["workspace=runs/bench/visits", "roots.limit=36", "roots.max_tokens=400", "anchors.max_per_root=10", "retrieval.top_k=5"]
Readings = dict[int, Measured]


@dataclass(frozen=True)
class Known:
    """A pair of a root: nothing of it is visited yet, but what a pass would find is known."""

    visit: Visit
    features: tuple[float, ...]
    readings: Readings
    accepted: bool

    @property
    def is_candidate(self) -> bool:
        return self.visit.kind == CANDIDATE


def measured(overrides: list[str]) -> tuple[dict[str, list[Known]], Rule]:
    """Root -> its pairs; and the rule that accepted."""
    runner = open_runner("demo", [*SETTING, *overrides], None, MEASURED)
    runner.run(MEASURED)
    frames = runner.state.frames(step_writing("sequences"))
    readings = _readings(frames["gains"])
    accepted = {
        (row.root_id, row.chunk_id) for row in runner.state.readings().where("accepted").select("root_id", "chunk_id").collect()
    }
    roots: dict[str, list[Known]] = defaultdict(list)
    window = runner.config.query.window, runner.config.query.side
    for row in frames["pairs"].orderBy("root_id", "pair_id", "chunk_id").toLocalIterator():
        anchors = [Anchor(**anchor.asDict()) for anchor in row.anchors]
        ids = np.array(row.root_ids, np.int32), np.array(row.chunk_ids, np.int32)
        found = features(anchors, *ids, window) if row.kind == CANDIDATE else ()
        visit = Visit(len(roots[row.root_id]), row.kind, len(row.chunk_ids), anchors, [a.position for a in anchors])
        roots[row.root_id].append(Known(visit, found, readings[row.pair_id], (row.root_id, row.chunk_id) in accepted))
    return roots, acceptance_rule(runner.config.accept)


def _readings(gains: DataFrame) -> dict[int, Readings]:
    found: dict[int, Readings] = defaultdict(dict)
    for row in gains.select("pair_id", "readings").toLocalIterator():
        for reading in row.readings:
            found[row.pair_id][reading.position] = Measured(reading.entropy_with, reading.nll_with, reading.copy_len)
    return found


def fitted(pairs: list[Known]) -> Order:
    """An order from the candidates of some roots."""
    examples = [pair for pair in pairs if pair.is_candidate]
    return fit_order(np.array([pair.features for pair in examples]), np.array([pair.accepted for pair in examples]))


def replay(pairs: list[Known], rule: Rule, budget: int, order: Order) -> np.ndarray:
    """Of one root visited in this order: candidates read and tokens accepted under the budget; accepted in the first half."""
    candidates = [pair for pair in pairs if pair.is_candidate]
    odds = dict(zip([p.visit.key for p in candidates], order.log_odds([p.features for p in candidates]).tolist(), strict=True))
    visits = [replace(pair.visit, known={}) for pair in pairs]
    root = RootWaves(visits, rule, budget, lambda visit: odds[visit.key])
    passes = 0
    while wave := root.next_wave():
        for visit in wave:
            visit.known |= pairs[visit.key].readings
            passes += visit.kind == CANDIDATE
    candidates.sort(key=lambda pair: (-odds[pair.visit.key], pair.visit.order))
    return np.array([passes, root.accepted_tokens(), sum(pair.accepted for pair in candidates[: len(candidates) // 2])])


def main() -> None:
    """Measure once, then replay both orders, a draw of the fitted roots at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=512, help="tokens of accepted contexts a root")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    roots, rule = measured(given.overrides)
    rank, learned, every = [], [], []
    for draw in range(given.draws):
        names = sorted(roots, key=lambda name: xxhash64("visits", draw, name))
        order = fitted([pair for name in names[:LEAST_ROOTS] for pair in roots[name]])
        judged = [roots[name] for name in names[LEAST_ROOTS:]]
        rank.append(sum(replay(pairs, rule, given.budget, BY_RANK) for pairs in judged))
        learned.append(sum(replay(pairs, rule, given.budget, order) for pairs in judged))
        every.append(sum(pair.accepted for pairs in judged for pair in pairs))
        say(f"draw {draw + 1}: passes, tokens accepted, chunks accepted in the first half of {every[-1]}: by rank {rank[-1]}, "
            f"learned {learned[-1]}")  # fmt: skip
    by_rank, by_odds = np.array(rank), np.array(learned)
    record(
        "visits", by_odds[:, 0].tolist(), by_rank[:, 0].tolist(), unit="passes", roots=len(roots), fitted_on=LEAST_ROOTS,
        candidates=sum(pair.is_candidate for pairs in roots.values() for pair in pairs), budget=given.budget,
        recall_at_half={"rank": round(float((by_rank[:, 2] / every).mean()), 3),
                        "learned": round(float((by_odds[:, 2] / every).mean()), 3)},
        tokens_accepted=round(float(by_odds[:, 1].sum() / by_rank[:, 1].sum()), 3),
    )  # fmt: skip


if __name__ == "__main__":
    main()
