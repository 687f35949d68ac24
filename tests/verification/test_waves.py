"""Budgets and screens: what they leave out has its reason, what they measure is what would have been measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropylong.config import load_config
from entropylong.core.context import StageContext
from entropylong.models.causal_lm import CausalLM
from entropylong.pipeline.backlog import counts
from entropylong.pipeline.metrics.compute import compute_metrics
from entropylong.pipeline.steps import step_writing
from entropylong.verification import waves
from entropylong.verification.calibration import recall_bound
from entropylong.verification.measuring import Pair, PairReading, measure
from entropylong.verification.planning import Anchor
from entropylong.verification.rules.base import Rule
from entropylong.verification.screens.base import Candidate, Screen
from entropylong.verification.screens.left_window import LeftWindow
from entropylong.verification.stage import VERIFY, selection_of
from entropylong.verification.waves import RootWaves, Visit
from tests import tiny
from tests.conftest import OpenRunner, rows_of

PAPER = Rule("paper", 0.4, 0.2, 0.7, None)


def root_of(gains: list[float], ranks: list[int], tokens: int = 10) -> tuple[list[Visit], dict[int, PairReading]]:
    """One anchor; a candidate a gain; two controls."""
    visits = [Visit(k, "candidate", tokens, [Anchor(5, 4.0, 6.0, rank, 1 / (k + 1))], [5]) for k, rank in enumerate(ranks)]
    visits += [Visit(len(ranks) + k, "random", tokens, [Anchor(5, 4.0, 6.0)], [5]) for k in range(2)]
    values = [*gains, 0.0, 0.0]
    one = np.ones(1, np.float32)
    return visits, {k: PairReading(one * 4 * (1 - gain), one, np.zeros(1, np.int32)) for k, gain in enumerate(values)}


def visit_all(root: RootWaves, readings: dict[int, PairReading]) -> list[list[int]]:
    wave_keys = []
    while wave := root.next_wave():
        wave_keys.append([visit.key for visit in wave])
        for visit in wave:
            visit.observe(visit.unread, readings[visit.key])
    return wave_keys


@given(gains=st.lists(st.sampled_from([0.0, 0.9]), min_size=1, max_size=40), budget=st.integers(1, 200), data=st.data())
def test_waves_go_by_rank_and_stop_when_the_budget_is_full(gains: list[float], budget: int, data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, 4), min_size=len(gains), max_size=len(gains)))
    visits, readings = root_of(gains, ranks)
    root = RootWaves(visits, PAPER, budget)
    wave_keys = visit_all(root, readings)
    order = [key for wave in wave_keys for key in wave]
    controls, candidates = order[:2], order[2:]
    assert sorted(controls) == [len(gains), len(gains) + 1], "controls come first, whatever the budget"
    assert candidates == sorted(range(len(gains)), key=lambda k: (ranks[k], k))[: len(candidates)]
    accepted = [10 * sum(gains[k] > 0.4 for k in wave if k < len(gains)) for wave in wave_keys]
    assert sum(accepted[:-1]) < budget, "no wave after the one that filled it"
    left = [visit.key for visit in root.unvisited()]
    assert sorted(order + left) == sorted(readings)
    assert not left or sum(accepted) >= budget


def test_without_a_budget_all_go_in_one_wave() -> None:
    visits, readings = root_of([0.9] * 50, [1] * 50)
    root = RootWaves(visits, PAPER, None)
    assert [len(wave) for wave in visit_all(root, readings)] == [52] and root.unvisited() == []


def test_what_was_measured_before_counts_and_is_not_read_again() -> None:
    visits, readings = root_of([0.9] * (waves.WAVE + 4), [1] * (waves.WAVE + 4))
    for visit in visits[:3]:
        visit.observe([5], readings[visit.key])
        visit.unread = []
    root = RootWaves(visits, PAPER, 10 * waves.WAVE)
    (only,) = visit_all(root, readings)
    assert set(only).isdisjoint({0, 1, 2}) and len(only) == waves.WAVE - 3 + 2
    assert root.is_full() and len(root.unvisited()) == 4


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> CausalLM:
    return CausalLM(tiny_lm, document_start_id=0, device="cpu")


def test_a_screen_equals_its_definition(model: CausalLM) -> None:
    text = np.array(model.encode(3 * tiny.TEXT), np.int32)
    separator = model.encode("\n\n")
    screen = Screen("left_window", 0.2, 12, 0.1, 1)
    root, empty = text[:90], np.zeros(0, np.int32)
    expected_gains, candidates = [], []
    cases = [(np.array([40, 60], np.int32), text[90:120]), (np.array([5, 89], np.int32), text[100:150])]
    for positions, chunk in cases:
        ((_, base),) = measure(model, [Pair(root, empty, positions)], separator_ids=[], batch_tokens=500)
        start = max(0, int(positions[0]) - 12)
        ((_, after),) = measure(model, [Pair(root[start:], chunk, positions - start)], separator_ids=separator, batch_tokens=500)
        expected_gains.append((base.entropy_with - after.entropy_with) / base.entropy_with)
        candidates.append(Candidate(root, chunk, positions, base.entropy_with.astype(np.float64)))
    for gain, expected in zip(LeftWindow().gains(screen, model, candidates, separator, 300), expected_gains, strict=True):
        assert np.abs(gain - expected).max() < 1e-4


def test_recall_bound_is_wilsons() -> None:
    # Values of the one-sided 95 % Wilson bound, from its quadratic solved by bisection.
    for true_positives, positives in [(0, 5), (5, 5), (9, 10), (190, 200)]:
        share = true_positives / positives
        low, high = 0.0, share
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if share - middle > 1.644854 * (middle * (1 - middle) / positives) ** 0.5 else (low, middle)
        assert recall_bound(true_positives, positives) == pytest.approx(low, abs=1e-6)


def test_a_budget_measures_a_part_and_no_budget_the_rest(copied: Path, open_runner: OpenRunner) -> None:
    """Into an empty gains table: under a budget, again, under another, and at last all: the same readings as in one go."""
    full = open_runner(copied)
    readings = {(r[0], p.position): p for r in rows_of(full, "gains", ("pair_id", "readings")) for p in r[1]}
    shutil.rmtree(copied / "tables" / "gains")
    small = ("verify.budget_tokens=40", "accept.epsilon=0.0")
    first = open_runner(copied, *small)
    first.run(["verify"])
    assert first.run(["verify"]).steps == [], "what the budget left out is done under it"
    rows = rows_of(first, "gains", ("outcome", "code", "pair_id", "readings"))
    ok = {(r[2], p.position) for r in rows if r[0] == "ok" for p in r[3]}
    left = {(r[2], p.position) for r in rows if r[1] == "BUDGET_FULL" for p in r[3]}
    assert ok and left and not ok & left and ok | left == set(readings), "keys in = keys out"
    larger = open_runner(copied, "verify.budget_tokens=160", "accept.epsilon=0.0")
    larger.run(["verify"])
    more = {(r[1], p.position) for r in rows_of(larger, "gains", ("outcome", "pair_id", "readings")) if r[0] == "ok" for p in r[2]}
    assert ok < more < set(readings)
    last = open_runner(copied)
    last.run(["verify"])
    now = [(r[1], p) for r in rows_of(last, "gains", ("outcome", "pair_id", "readings")) if r[0] == "ok" for p in r[2]]
    assert sorted((pair, p.position) for pair, p in now) == sorted(readings), "each reading once"
    for pair, p in now:
        assert abs(p.entropy_with - readings[pair, p.position].entropy_with) < 1e-3


def test_a_budget_under_one_plan_leaves_nothing_out_under_another(copied: Path, open_runner: OpenRunner) -> None:
    """What filled a budget under more anchors may be what another alpha does not ask for: its own waves decide."""
    shutil.rmtree(copied / "tables" / "gains")
    budget = ("verify.budget_tokens=40", "accept.epsilon=0.0")
    open_runner(copied, *budget, "anchors.alpha=1.0").run(["anchors", "search", "pairs", "verify"])
    fewer = open_runner(copied, *budget)
    fewer.run(["verify"])
    tokens = {row.chunk_id: len(row.ids) for row in fewer.state.ok_rows("context_ids").collect()}
    readings, planned = fewer.state.readings().collect(), fewer.state.frames(step_writing("gains"))["pairs"].collect()
    measured = {(reading.root_id, reading.chunk_id, reading.position) for reading in readings}
    accepted: dict[str, set[int]] = {}
    for reading in readings:
        if reading.accepted:
            accepted.setdefault(reading.root_id, set()).add(reading.chunk_id)
    left = {p.root_id for p in planned for a in p.anchors if (p.root_id, p.chunk_id, a.position) not in measured}
    assert left and all(sum(tokens[chunk] for chunk in accepted.get(root, ())) >= 40 for root in left)


def test_a_screen_is_calibrated_on_roots_it_does_not_touch(copied: Path, open_runner: OpenRunner) -> None:
    """With a window that holds the whole root, the screen's gains are the exact ones, so the recall is known."""
    shutil.rmtree(copied / "tables" / "gains")
    keys = ["verify.screen.kind=left_window", "verify.screen.window=300", "verify.screen.sample=0.5"]
    runner = open_runner(copied, *keys, "verify.screen.min_gain=0.02")
    result = runner.run(["verify"])
    rows = rows_of(runner, "gains", ("outcome", "code", "root_id", "kind", "readings"))
    out = [r for r in rows if r[1] == "SCREENED_OUT"]
    assert out and all(r[3] == "candidate" for r in out)
    assert all(max(p.screen_gain for p in r[4] if p.screen_gain is not None) < 0.02 for r in out)
    screen = Screen("left_window", 0.02, 300, 0.5, runner.config.seed)
    sample = {r[2] for r in rows if screen.is_sample(r[2])}
    assert sample and not sample & {r[2] for r in out}, "held-out roots are measured whole"
    figures = compute_metrics(runner.state, result)
    assert figures["screen_positives"] > 0 and figures["screen_recall"] == 1.0
    assert 0 < figures["screen_recall_low"] < 1 and figures["screen_saving"] < 0.01, "a window as long as the root saves nothing"
    strict = open_runner(copied, *keys, "verify.screen.min_gain=0.9")
    assert counts(strict.state, step_writing("gains")).left > 0, "another screen looks again"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], None),
        (["verify.budget_tokens=4096"], "3aebacb47d53a9c5"),
        (["verify.screen.kind=left_window"], "7269e2cb9f3870f9"),
        (["verify.budget_tokens=4096", "verify.screen.kind=left_window"], "62769dacae483620"),
    ],
)
def test_a_selection_keeps_the_digest_that_its_rows_have(keys: list[str], expected: str | None) -> None:
    """Another digest would read again all that a budget or a screen left out in the workspaces that exist."""
    overrides = [
        "seed=7", "accept.rule=specific", "accept.epsilon=0.4", "accept.min_excess=0.2", "accept.min_nll_drop=0.7",
        "accept.max_copy_tokens=8", "verify.screen.window=128", "verify.screen.min_gain=0.2", "verify.screen.sample=0.05",
    ]  # fmt: skip
    ctx = cast(StageContext, SimpleNamespace(config=load_config("base", [*overrides, *keys]), fingerprints={"pairs": "f" * 12}))
    selection = selection_of(ctx)
    assert (selection and selection.digest) == expected
    assert VERIFY.choice(ctx) == expected, "what rows that were left out are known by"
