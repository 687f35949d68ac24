"""The learned visiting order: its features by hand, its fit on a known rule, and a workspace that learns it once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from entropylong.errors import ConfigError, NothingToDo
from entropylong.pipeline import step_writing
from entropylong.verification import learning
from entropylong.verification.acceptance import Rule
from entropylong.verification.learning import known_order, order_hash
from entropylong.verification.ordering import BY_RANK, FEATURES, Order, features, fit_order
from entropylong.verification.planning import Anchor
from entropylong.verification.stage import selection_of
from entropylong.verification.waves import RootWaves, Visit
from tests.conftest import MakeConfig, OpenRunner, quiet, rows_of

LEARNS = ("verify.order=learned", "verify.budget_tokens=40", "accept.rule=paper", "accept.epsilon=0.0")


def test_features_by_hand() -> None:
    root = np.arange(100, 120, dtype=np.int32)
    chunk = np.array([103, 104, 111, 7], np.int32)
    anchors = [Anchor(4, 2.0, 1.0, rank=3, score=0.5), Anchor(12, 3.0, 1.0, rank=2, score=0.4), Anchor(5, 9.0, 9.0)]
    # Windows 102..105 (two of four held) and 110..113 (one of four); the last anchor did not retrieve it.
    assert features(anchors, root, chunk, (2, "both")) == (0.5, 2.0, 3.0, 0.5)
    assert features(anchors, root, chunk, (2, "left")) == (0.5, 2.0, 3.0, 0.5), "102, 103 and 110, 111: one of two each"
    assert features(anchors[:1], root, np.zeros(0, np.int32), (8, "both")) == (0.5, 3.0, 2.0, 0.0)


def drawn(seed: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of which score and overlap decide; rank and entropy are noise."""
    random = np.random.default_rng(seed)
    table = np.stack([random.random(n), random.integers(1, 33, n), random.random(n) + 2, random.random(n)], axis=1)
    odds = -5 + 3 * table[:, 0] + 3 * table[:, 3]
    return table, random.random(n) < 1 / (1 + np.exp(-odds))


def test_a_fit_finds_the_rule_that_accepts() -> None:
    order = fit_order(*drawn(1))
    table, accepted = drawn(2)
    raw = dict(zip(FEATURES, np.array(order.weights) / np.array(order.scale), strict=True))
    assert raw["score"] == pytest.approx(3, abs=0.6) and raw["overlap"] == pytest.approx(3, abs=0.6)
    assert abs(raw["rank"]) < 0.02 and abs(raw["entropy"]) < 0.6
    first = np.argsort(-order.log_odds(table))[:1000]
    by_rank = np.argsort(table[:, 1])[:1000]
    assert accepted[first].sum() / accepted.sum() > 0.75 > 0.6 > accepted[by_rank].sum() / accepted.sum()
    assert Order(**{name: tuple(values) for name, values in order.stated().items()}) == order


def test_too_few_examples_leave_the_order_of_ranks() -> None:
    table, accepted = drawn(3, 40)
    for chosen in (np.zeros(40, bool), np.ones(40, bool), np.arange(40) < 4):
        assert fit_order(table, chosen).weights == BY_RANK.weights
    assert fit_order(np.zeros((0, 4)), np.zeros(0, bool)).weights == BY_RANK.weights
    table[:, 2] = 1.5  # never varies
    assert np.isfinite(fit_order(table, accepted).log_odds(table)).all()


@given(odds=st.lists(st.sampled_from([-1.0, 0.0, 2.5]), min_size=1, max_size=30), data=st.data())
def test_waves_go_by_odds_then_by_rank(odds: list[float], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, 4), min_size=len(odds), max_size=len(odds)))
    visits = [Visit(k, "candidate", 10, [Anchor(5, 4.0, 6.0, rank, 0.5)], [5]) for k, rank in enumerate(ranks)]
    visits.append(Visit(len(ranks), "random", 10, [Anchor(5, 4.0, 6.0)], [5]))
    root = RootWaves(visits, Rule("paper", 0.4, 0.2, 0.7, None), 10**6, lambda visit: odds[visit.key])
    seen = [visit.key for wave in iter(root.next_wave, []) for visit in wave]
    assert seen == [len(ranks), *sorted(range(len(odds)), key=lambda k: (-odds[k], ranks[k], k))]


def test_an_order_is_learned_once_on_roots_measured_whole(
    copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "LEAST_ROOTS", 3)
    for lost in ("tables/gains", "checkpoints/gains"):
        shutil.rmtree(copied / lost)
    runner = open_runner(copied, *LEARNS)
    assert runner.counts(step_writing("gains")).left > 0 and known_order(runner) is None, "a look learns nothing"
    said: list[str] = []
    result = runner.run(["verify", "pack"], announce=said.append)
    assert [line for line in said if line.startswith("verify: order of visits, from ")]
    artifact = next(a for a in runner.registry._known.values() if a.table == "order")
    order = Order(**{name: tuple(values) for name, values in artifact.pinned["order"].items()})
    frames = runner.frames(step_writing("gains"))
    sample = frames["pairs"].where(order_hash(runner.config) <= artifact.pinned["threshold"])
    roots = {row.root_id for row in sample.select("root_id").distinct().collect()}
    left = rows_of(runner, "gains", ("root_id", "code"))
    assert len(roots) == 3 and roots.isdisjoint({root for root, code in left if code}), "the sample is measured whole"
    assert any(code == "BUDGET_FULL" for _, code in left), "the others under the budget"
    assert result.figures["keys_gains"] == sum(len(r[0]) for r in rows_of(runner, "gains", ("readings",)))

    # What it was fitted on, from the tables directly.
    planned = sample.where("kind = 'candidate'").orderBy("root_id", "chunk_id").collect()
    accepted = {(c.root_id, c.chunk_id) for c in runner.cells().where("accepted").collect()}
    table = [features([Anchor(*a) for a in p.anchors], np.array(p.root_ids), np.array(p.chunk_ids),
                      (runner.config.query.window, runner.config.query.side)) for p in planned]  # fmt: skip
    expected = fit_order(np.array(table), np.array([(p.root_id, p.chunk_id) in accepted for p in planned]))
    assert np.allclose(order.weights, expected.weights) and artifact.pinned["examples"] == len(planned)

    again = open_runner(copied, *LEARNS)
    assert again.run(["verify"], announce=quiet).steps == [] and again.ctx.order == order
    # Killed after the sample: what is not pinned is learned again, from the same roots.
    monkeypatch.setattr(learning, "fit_order", lambda table, accepted: pytest.fail("learned twice"))
    wider = open_runner(copied, *LEARNS[:1], "verify.budget_tokens=160", *LEARNS[2:])
    wider.run(["verify"], announce=quiet)
    rest = open_runner(copied)
    rest.run(["verify"], announce=quiet)
    unread = rest.store.read_ok("gains", rest.fingerprint("gains") or "").select("pair_id", F.explode("readings.position"))
    assert unread.count() == unread.distinct().count() > 0, "each reading once"


def test_what_is_left_out_is_of_one_order(tmp_path: Path, open_runner: OpenRunner) -> None:
    def digests(*keys: str, **known: Order | int) -> tuple[str, ...]:
        selection = selection_of(open_runner(tmp_path, *LEARNS[1:], *keys).ctx.with_(**known))
        return selection.digests if selection else ()

    rank, unlearned, learned = digests(), digests(LEARNS[0]), digests(LEARNS[0], order=BY_RANK)
    assert len({rank, unlearned, learned}) == 3 and len(learned) == 1, "before it is learned nothing is done"
    screen = ("verify.screen.kind=left_window", LEARNS[0])
    assert digests(*screen, order=BY_RANK)[1:] == digests(*screen, order_sample=5), "what the sample's screen left out stays so"


def test_an_order_is_learned_of_all_roots_that_are_planned(
    copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it measured already: of roots that roots.limit leaves out too, and not before the last pair is planned."""
    monkeypatch.setattr(learning, "LEAST_ROOTS", 3)
    runner = open_runner(copied, *LEARNS, "roots.limit=2")
    runner.run(["verify"], announce=quiet)
    artifact = next(a for a in runner.registry._known.values() if a.table == "order")
    planned = runner.frames(step_writing("gains"))["pairs"].where("kind = 'candidate'")
    sample = planned.where(order_hash(runner.config) <= artifact.pinned["threshold"])
    assert artifact.pinned["examples"] == sample.count() > 0 and sample.select("root_id").distinct().count() == 3
    less = open_runner(copied, *LEARNS, "controls.per_root=1")
    less.run(["pairs"], announce=quiet)
    root = less.frames(step_writing("gains"))["pairs"].orderBy("root_id").head()
    less.spark.sql(f"DELETE FROM {less.store.address('pairs')} WHERE root_id = '{root.root_id}'")
    with pytest.raises(NothingToDo, match="stage pairs is not finished"):
        open_runner(copied, *LEARNS, "controls.per_root=1").run(["verify"], announce=quiet)


def test_killed_while_it_learns(copied: Path, open_runner: OpenRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "LEAST_ROOTS", 3)
    for lost in ("tables/gains", "checkpoints/gains"):
        shutil.rmtree(copied / lost)
    with monkeypatch.context() as broken:
        broken.setattr(learning, "learn_order", lambda runner, threshold: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_runner(copied, *LEARNS).run(["verify"], announce=quiet)
    said: list[str] = []
    runner = open_runner(copied, *LEARNS)
    runner.run(["verify"], announce=said.append)
    assert said[0] == "verify (to learn the order): up to date" and known_order(runner) is not None
    rows = rows_of(runner, "gains", ("pair_id", "readings"))
    positions = [(pair, reading.position) for pair, readings in rows for reading in readings]
    assert len(positions) == len(set(positions)), "keys in = keys out"


def test_an_order_without_a_budget_is_refused(make_config: MakeConfig, tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"'verify\.order': learned orders what verify\.budget_tokens visits"):
        make_config(tmp_path / "w", corpus, "verify.order=learned")
