"""Claim B: what a trained model is judged on, against direct computations; and the whole experiment with a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from entropylong.entropy.engine import Reading, entropy_at
from entropylong.errors import ConfigError, EvaluationError
from entropylong.experiments import training
from entropylong.experiments.run_training import run_experiment
from entropylong.experiments.training import (
    ARMS,
    SPAN,
    Difference,
    HeldOut,
    Item,
    between,
    claim_holds,
    difference,
    find_keys,
    held_items,
    judge,
    ruler_answers,
    windows,
    with_permuted,
)
from entropylong.models.causal_lm import CausalLM
from entropylong.pipeline.runner import Runner
from entropylong.utils.hashing import share_threshold, xxhash64
from tests.conftest import MakeConfig

RNG = np.random.default_rng(0)


def ids(count: int) -> np.ndarray:
    return RNG.integers(2, 300, count).astype(np.int32)


def item(key: str, context: int, position: int = 20) -> Item:
    return Item(key, ids(context), ids(0), (ids(9), ids(5)), ids(50), position)


def test_what_stands_between_is_as_long_as_the_hash_says() -> None:
    chunks = {n: ids(10 + n) for n in range(60)}
    arrays = between(chunks, {3, 4}, "a", (200, 400))
    assert sum(map(len, arrays)) == 200 + xxhash64("distance", "a") % 200
    pieces = [piece.tolist() for piece in arrays]
    assert all(any(p == c[: len(p)].tolist() for n, c in chunks.items() if n not in (3, 4)) for p in pieces)
    assert [p.tolist() for p in between(chunks, {3, 4}, "a", (200, 400))] == pieces != between(chunks, set(), "b", (200, 400))


def test_a_permuted_context_is_anothers_and_no_longer() -> None:
    items = [item("a", 30), item("b", 33), item("c", 12)]
    verified = {i.key: {i.context.tobytes()} for i in items}
    verified["a"].add(items[1].context.tobytes())
    by_key = {i.key: i.permuted.tolist() for i in with_permuted(items, verified)}
    assert by_key == {"a": items[2].context.tolist(), "b": items[0].context.tolist(), "c": items[0].context[:12].tolist()}
    assert with_permuted(items[:1], verified) == [], "an item alone has nothing to be compared with"


def test_held_out_links_are_items_once_and_windows_hold_all_text() -> None:
    chunks, doc_of = {n: ids(20) for n in range(9)}, {n: f"d{n % 3}" for n in range(9)}
    roots = {"r": ("d0", ids(40)), "s": ("d1", ids(40))}
    links = [("r", 1, 30), ("r", 1, 35), ("r", 2, 33), ("s", 5, 31)]
    by_key = {item.key: item for item in held_items(links, roots, chunks, doc_of, 9, (30, 31))}
    assert {key: item.position for key, item in by_key.items()} == {"r/1": 30, "r/2": 33, "s/5": 31}
    for one in by_key.values():
        own = {"r": {1, 2, 0, 3, 6}, "s": {5, 1, 4, 7}}[one.key[0]]
        between_ = [next(n for n, c in chunks.items() if c[: len(p)].tolist() == p.tolist()) for p in one.between]
        assert between_ and not own & set(between_), "neither verified for the root nor of its document"
    assert len(held_items(links, roots, chunks, doc_of, 2, (30, 31))) <= 2
    cut = windows([ids(1500), ids(1500)], (3,))
    assert [len(window) for window in cut] == [2048, 3002 - 2048] and cut[0][1500] == 3


def test_scores_against_a_direct_computation(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CausalLM(tiny_lm, "float32", 0)
    items = with_permuted([item("a", 30), item("b", 33, 45)], {"a": set(), "b": set()})
    answers = ruler_answers(model.encode, [2048], 1, 42)
    assert set(answers) == {"niah_single_1/2048/0", "niah_multikey_2/2048/0", "vt/2048/0"}
    held = HeldOut(tuple(items), (ids(40),), answers, (3, 4))
    held = HeldOut(held.items, held.plain, answers, held.separator, find_keys(model, held, 4096, window=16, stride=4, gain=0.1))
    scores = judge(model, held, 4096)

    def nll(sequence: list[int], places: range) -> float:
        read = [entropy_at(model, [np.array(sequence, np.int32)], [np.array([p], np.int32)])[0].nll[0] for p in places]
        return float(np.mean(read))

    for one in items:
        values = []
        for context in (one.permuted, one.context):
            front = [0, *context.tolist(), 3, 4, *one.between[0].tolist(), 3, 4, *one.between[1].tolist(), 3, 4]
            span = range(len(front) + one.position, len(front) + min(one.position + SPAN, 50))
            values.append(nll([*front, *one.root.tolist()], span))
        assert scores.effects[one.key] == pytest.approx(values[0] - values[1], abs=1e-4)
    for key, (question, answer) in answers.items():
        whole = [0, *question.tolist(), *answer.tolist()]
        assert scores.answers[key] == pytest.approx(-nll(whole, range(len(whole) - len(answer), len(whole))), abs=1e-4)
    assert scores.plain_nll == pytest.approx(nll([0, *held.plain[0].tolist()], range(1, 41)), abs=1e-4)
    assert np.isfinite(scores.long_ppl) == any(map(len, held.keys))

    def fails(model: object, sequences: list[np.ndarray], positions: list[np.ndarray], **rest: object) -> list[Reading]:
        return [Reading(p * np.float32(np.nan), p * np.float32(np.nan), "out of memory") for p in positions]

    monkeypatch.setattr(training, "entropy_at", fails)
    with pytest.raises(EvaluationError, match=r"no number for some token .out of memory"):
        judge(model, held, 4096)


def test_what_is_held_out_is_told_apart_to_the_token() -> None:
    one = item("a", 30)
    held = HeldOut((one,), (ids(40),), {"vt/2048/0": (ids(9), ids(3))}, (3, 4), (ids(2),))
    others = [
        replace(held, items=(replace(one, permuted=ids(5)),)), replace(held, items=(replace(one, position=21),)),
        replace(held, plain=(ids(40),)), replace(held, answers={"vt/2048/0": (ids(9), ids(3))}), replace(held, keys=(ids(2),)),
        replace(held, separator=(3,)),
    ]  # fmt: skip
    assert replace(held).identity == held.identity and len({held.identity, *(other.identity for other in others)}) == 7


def test_intervals_over_seeds_and_items_cover_and_decide() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(40):
        effects = 0.5 + rng.normal(0, 1, (5, 1)) + rng.normal(0, 1, (1, 30)) + rng.normal(0, 0.2, (5, 30))
        interval = difference(effects, np.zeros((5, 30)), seed=trial)
        assert interval.value == pytest.approx(effects.mean())
        inside += interval.low <= 0.5 <= interval.high
    assert inside >= 28, "five seeds give a wide interval, which bootstrap makes somewhat too narrow"
    sure, unsure = Difference(0.2, 0.1, 0.3), Difference(0.2, -0.1, 0.3)
    assert claim_holds({"noverify": sure, "permuted": sure}) and not claim_holds({"noverify": sure, "permuted": unsure})


def test_the_experiment_runs_and_goes_on(spark: SparkSession, copied: Path, corpus: Path, make_config: MakeConfig) -> None:
    keys = [
        "pack.held_out=0.5", "experiment.seeds=1", "experiment.learning_rates=[1e-3]", "experiment.items=4",
        "experiment.distance=[20,60]", "experiment.lengths=[2048]", "experiment.samples=1", "train.steps=1", "train.batch=2",
        "train.ranks=1", "train.dtype=float32", "train.save_every=1", "accept.epsilon=0.05",
    ]  # fmt: skip
    config = make_config(copied, corpus, *keys)
    result, _ = run_experiment(config, lambda own: Runner.open(own, spark), spark)
    assert set(ARMS) == {key.partition(".")[2] for key in result.figures if key.startswith("plain_nll.")} - {"base"}
    assert result.figures["claim_holds"] in (0.0, 1.0) and result.figures["plain_nll.base"] > 0
    assert len(list((copied / "training").glob("*/experiment.json"))) == len(ARMS)
    runner = Runner.open(config, spark)
    packed = runner.state.ok_rows("sequences").collect()
    chunks = {row.chunk_id: row.doc_id for row in runner.state.ok_rows("chunks").collect()}
    documents = {s.root_id or chunks[s.chunk_id] for q in packed for s in q.segments if s.kind in ("root", "context")}
    documents |= {chunks[s.chunk_id] for q in packed for s in q.segments if s.kind == "context"}
    threshold = share_threshold(0.5)
    assert documents and all(xxhash64(config.seed, "held_out", doc) <= threshold for doc in documents), "nothing held out is packed"
    with pytest.raises(EvaluationError, match="there is nothing to judge on; give more roots"):
        run_experiment(make_config(copied, corpus, *keys, "pack.held_out=1e-9"), lambda own: Runner.open(own, spark), spark)
    facts = result.facts
    assert facts["sequences"] == runner.state.fingerprint("sequences") and facts["train.steps"] == 1
    with pytest.raises(ConfigError, match=r"leave out keys 'train\.data'"):
        run_experiment(make_config(copied, corpus, *keys, "train.mode=sft"), lambda own: Runner.open(own, spark), spark)
    with pytest.raises(ConfigError, match="hold out a share of the documents"):
        run_experiment(make_config(copied, corpus), lambda own: Runner.open(own, spark), spark)
