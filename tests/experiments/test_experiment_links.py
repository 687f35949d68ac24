"""Claim A: gold from structure, arms over judged readings, figures with intervals; and the whole command with the real models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from entropylong.config import load_config
from entropylong.core.stage_names import MEASURED
from entropylong.corpus.sources.canaries import CANARIES, canary, canary_documents, fact_of
from entropylong.corpus.sources.demo import demo_documents
from entropylong.entropy.engine import Reading, entropy_at
from entropylong.errors import EvaluationError, SourceError
from entropylong.experiments import links as claim
from entropylong.experiments.links import (
    ARMS,
    JudgedReading,
    Link,
    Sums,
    Text,
    after,
    arms,
    drops_of,
    estimate,
    far_drops,
    precision,
)
from entropylong.experiments.run_links import _result, gold_documents, run_links, write_roots
from entropylong.experiments.see_also import choose, linked, see_also
from entropylong.maintenance.check import check_workspace
from entropylong.models.causal_lm import CausalLM
from entropylong.pipeline.metrics.compute import _canaries
from entropylong.pipeline.runner import Runner
from tests.conftest import CONF


def test_a_canary_asks_for_what_its_fact_says() -> None:
    pairs = [canary(number) for number in range(60)]
    assert len({p.fact for p in pairs}) == len({p.root for p in pairs}) == 60 and canary(7) == canary(7)
    for planted in pairs:
        name = next(
            w for w in planted.fact.split("\n\n")[0].split() if w[0].isupper() and planted.fact.count(w) > 1 and w in planted.root
        )
        assert name and fact_of(planted.root_id) == planted.fact_id
        before = planted.root.index(name)
        assert before > 600, "the root has a body before it asks"
    assert [doc for doc, _ in canary_documents("facts:2")] == ["canary:00000:fact", "canary:00001:fact"]
    with pytest.raises(SourceError, match="roots:N or facts:N"):
        CANARIES.list_units("planted", "everything:3", 1)


def test_canaries_are_counted_whatever_a_budget_left_out(spark: SparkSession) -> None:
    """Of four planted pairs three are retrieved, one of them twice (a fact in two chunks), one unmeasured; one root is split."""
    roots = ["canary:00000:root", "canary:00001:root", "canary:00002:root#0", "canary:00002:root#1", "canary:00003:root", "other"]
    facts = [(0, "canary:00000:fact"), (10, "canary:00000:fact"), (1, "canary:00001:fact"), (2, "canary:00002:fact"), (9, "other")]
    hits = [(roots[0], 40, [0, 10, 9]), (roots[1], 40, [1]), (roots[3], 40, [2]), (roots[4], 41, [0]), (roots[0], 99, [1])]
    frames = {
        "scored_documents": spark.createDataFrame([(root,) for root in roots], "root_id STRING"),
        "chunks": spark.createDataFrame(facts, "chunk_id BIGINT, doc_id STRING"),
        "anchors": spark.createDataFrame(
            [(r, [(40,), (41,)]) for r in roots], "root_id STRING, anchors ARRAY<STRUCT<position: INT>>"
        ),
        "candidates": spark.createDataFrame(
            [(root, position, [(chunk,) for chunk in chunks]) for root, position, chunks in hits],
            "root_id STRING, position INT, hits ARRAY<STRUCT<chunk_id: BIGINT>>",
        ),
    }
    judged = [(roots[0], 0, True), (roots[0], 10, True), (roots[0], 9, True), (roots[3], 2, False), (roots[4], 0, True)]
    rows = [(*reading, "retrieved") for reading in judged]
    readings = spark.createDataFrame(rows, "root_id STRING, chunk_id BIGINT, accepted BOOLEAN, kind STRING")
    by_stage = _canaries(SimpleNamespace(frames=lambda step: frames), readings)  # type: ignore[arg-type]
    shares = {"canary_recall_retrieval": 3 / 4, "canary_recall_verification": 1 / 3, "canary_precision": 2 / 4}
    by_name = {name: value for figures in by_stage.values() for name, value in figures.items()}
    assert by_name == {"canary_planted": 4} | shares


def test_see_also_sections() -> None:
    named = "freqz : Of a digital filter.\n    More of it.\nscipy.signal.lfilter, filtfilt\n:func:`~a.b.zpk2tf`\n"
    text = f"Short.\n\nSee Also\n--------\n{named}\nNotes\n-----\nNot_this : x\n"
    assert see_also(text) == ["freqz", "lfilter", "filtfilt", "zpk2tf"]
    assert see_also("Nothing of the kind.") == []
    documents = {"p.freqz": text, "p.m.lfilter": "See Also\n--------\nfreqz, lfilter\n", "p.other": "None."}
    assert linked(documents) == {"p.freqz": {"p.m.lfilter"}, "p.m.lfilter": {"p.freqz"}}
    assert list(choose(documents, 5, 100)) == ["p.freqz"]
    real = linked(dict(demo_documents("scipy.signal")))
    assert "scipy.signal._filter_design.lp2bp" in real["scipy.signal._filter_design.lp2hp"] and len(real) > 50


def reading(root: str, chunk: int, position: int, rank: int, accepted: bool, paper: bool = True, copy: int = 0) -> JudgedReading:
    return JudgedReading(Link(root, chunk, position), rank, 1.0 - rank / 10, copy, paper, accepted)


CELLS = [
    reading("a", 1, 40, 2, True), reading("a", 2, 40, 1, False), reading("a", 3, 50, 1, False, paper=False),
    reading("a", 9, 50, 2, False, copy=99),
    reading("b", 4, 60, 1, True), reading("b", 5, 60, 2, True), reading("b", 6, 70, 3, False, paper=False),
]  # fmt: skip


def test_arms_are_as_the_experiment_says() -> None:
    by_arm = arms(CELLS, 24)
    assert list(by_arm) == list(ARMS)
    assert by_arm["verified"] == [Link("a", 1, 40), Link("b", 4, 60), Link("b", 5, 60)]
    assert Link("a", 2, 40) in by_arm["paper's rule"] and all(link.chunk_id not in (3, 6, 9) for link in by_arm["paper's rule"])
    assert {(k.root_id, k.chunk_id) for k in by_arm["noverify"]} == {("a", 2), ("b", 4), ("b", 5)}, "as many, by rank then score"
    assert {(k.root_id, k.chunk_id) for k in by_arm["permuted"]} <= {("a", 4), ("a", 5), ("b", 1)}
    assert len(by_arm["permuted"]) == 3 and {k.position for k in by_arm["permuted"]} == {40, 60}


def test_gold_of_a_root_is_known_however_many_short_documents_name_others() -> None:
    documents = {f"m.f{n}": f"See Also\n--------\nf{(n + 1) % 90}\n" + ("x" * 500 if n % 9 == 0 else "") for n in range(90)}
    roots = list(choose(documents, 5, 400))
    assert len(roots) == 5 and all(gold_documents(documents, roots).values()), "each of them names one"


def test_results_of_other_anchors_are_kept_apart(tmp_path: Path) -> None:
    config = load_config(CONF / "experiment_links.yaml", [f"workspace={tmp_path}"])
    nothing = {"drop": Sums(np.zeros(2), np.zeros(2)), "precision": Sums(np.zeros(2), np.zeros(2))}
    sums: Any = {("all roots", arm): nothing for arm in ARMS}
    lm = SimpleNamespace(fingerprint="m")
    runners: list[Any] = [
        SimpleNamespace(
            config=config,
            state=SimpleNamespace(context=SimpleNamespace(causal_lm=lm), fingerprint={"gains": "g", "sequences": s}.get),
        )
        for s in "ab"
    ]
    assert len({_result(runner, sums, {arm: [] for arm in ARMS}).folder for runner in runners}) == 2


def test_figures_are_ratios_over_roots_with_intervals_that_cover() -> None:
    gold = {"a": frozenset({1, 2}), "b": frozenset({5})}
    sums = precision(arms(CELLS, 24)["verified"], gold, ["a", "b"])
    assert sums.part.tolist() == [1, 1] and sums.whole.tolist() == [1, 2]
    ratio = estimate(sums)
    assert ratio is not None and ratio.value == pytest.approx(2 / 3) and ratio.low <= ratio.value <= ratio.high
    assert estimate(Sums(np.zeros(2), np.zeros(2))) is None and estimate(sums, sums).value == 0  # type: ignore[union-attr]
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(60):
        part = rng.normal(0.3, 1.0, 40)
        one = estimate(Sums(part, np.ones(40)), seed=trial)
        inside += one is not None and one.low <= 0.3 <= one.high
    assert inside >= 51


def test_far_drops_against_a_direct_computation(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CausalLM(tiny_lm, "float32", 0)
    rng = np.random.default_rng(0)
    ids = lambda n: rng.integers(2, 300, n).astype(np.int32)  # noqa: E731
    text = Text(ids(50), frozenset({10, 14, 48}), (ids(5), ids(6), ids(7)), ids(9))
    chunks, links = {1: ids(8), 2: ids(4)}, [Link("r", 1, 10), Link("r", 2, 48)]
    assert after(text, 10).tolist() == [11, 12, 13, *range(15, 27)] and after(text, 48).tolist() == [49]
    drops = far_drops(model, {"r": text}, chunks, links, [3, 4], 64)
    for link in links:
        total = 0.0
        for place in after(text, link.position).tolist():
            nll = []
            for context in (text.stand_in, chunks[link.chunk_id]):
                front = [*model.prefix]
                for piece in (context, *text.distractors):
                    front += [*piece.tolist(), 3, 4]
                whole = np.array([*front, *text.ids.tolist()], np.int32)
                nll.append(float(entropy_at(model, [whole], [np.array([len(front) + place], np.int32)])[0].nll[0]))
            total += nll[0] - nll[1]
        assert drops[link] == (pytest.approx(total, abs=1e-3), len(after(text, link.position)))
    assert drops_of(links, drops, ["r", "none"]).whole.tolist() == [16, 0]

    def fails(model: object, sequences: list[Any], positions: list[Any], **rest: object) -> list[Reading]:
        return [Reading(p * np.float32(np.nan), p * np.float32(np.nan), "out of memory") for p in positions]

    monkeypatch.setattr(claim, "entropy_at", fails)
    with pytest.raises(EvaluationError, match=r"no number for some token .out of memory"):
        far_drops(model, {"r": text}, chunks, links, [3, 4], 64)


def test_the_command_on_planted_facts_and_docstrings(spark: SparkSession, tmp_path: Path) -> None:
    """Two roots of each half, the real models: planted facts are found, verified, counted and never packed."""
    keys = [f"workspace={tmp_path / 'w'}", "canaries=2", "sources.docstrings.path=scipy.signal.windows",
            "sources.language_reference.path=scipy.signal._waveforms", "retrieval.top_k=1", "controls.per_root=1",
            "contexts.max_tokens=96", "anchors.max_per_root=8"]  # fmt: skip
    config = load_config(CONF / "experiment_links.yaml", keys)
    with pytest.raises(EvaluationError, match="canaries asks for 5000"):
        write_roots(load_config(CONF / "experiment_links.yaml", [*keys, "canaries=5000"]))
    file = write_roots(config)
    config = load_config(
        CONF / "experiment_links.yaml",
        [*keys, "sources.see_also.kind=jsonl", f"sources.see_also.path={file}", "sources.see_also.role=both"],
    )
    opened: list[Runner] = []

    def open_(own: Any) -> Runner:
        opened.append(Runner.open(own, spark))
        return opened[-1]

    result, _ = run_links(config, open_)
    assert result.figures["planted_facts.verified.precision"] == result.figures["planted_facts.verified.recall"] == 1.0
    assert result.figures["planted_facts.verified.drop"] > 1.0 > abs(result.figures["all_roots.permuted.drop"])
    runner = Runner.open(config, spark)
    figures = runner.run(["pack"]).figures
    assert figures["canary_planted"] == 2 and figures["canary_recall_retrieval"] == figures["canary_recall_verification"] == 1.0
    assert not [check for check in check_workspace(runner.state) if check.wrong and "canary" in check.name]
    assert MEASURED[-1] == "verify"
