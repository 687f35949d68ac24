"""The whole chain at the paper preset, with the two real models on real text, against the independent oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from entropylong.config import load_config
from entropylong.corpus.sources.demo import demo_documents
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.pipeline.runner import Runner
from tests import tiny
from tests.conftest import CONF, REAL_ENCODER, REAL_LM
from tests.oracle import Oracle

pytestmark = [pytest.mark.runtime, pytest.mark.e2e]

ROOTS = ("scipy.signal._filter_design.buttord", "scipy.signal._filter_design.cheb1ord")
MAX_TOKENS, CUT, TOP_K, ALPHA, EPSILON, WINDOW = 160, 128, 2, 2.0, 0.4, 16


@pytest.fixture(scope="module")
def runner(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Two roots and the docstrings around them, through every stage."""
    folder = tmp_path_factory.mktemp("real")
    texts = dict(demo_documents("scipy.signal"))
    near = sorted(d for d in texts if "_filter_design" in d)[:12]
    tiny.write_jsonl(folder / "roots.jsonl", [{"doc_id": d, "text": texts[d]} for d in ROOTS])
    tiny.write_jsonl(folder / "rest.jsonl", [{"doc_id": d, "text": texts[d]} for d in near if d not in ROOTS])
    config = load_config(
        CONF / "paper.yaml",
        [
            f"workspace={folder / 'workspace'}", f"model.name={REAL_LM}", "model.dtype=float32", "model.document_start_id=0",
            f"encoder.name={REAL_ENCODER}", f"roots.max_tokens={MAX_TOKENS}", f"contexts.max_tokens={CUT}", "pack.length=2048",
            f"retrieval.top_k={TOP_K}", "sources.roots.kind=jsonl", f"sources.roots.path={folder / 'roots.jsonl'}",
            "sources.roots.role=both", "sources.rest.kind=jsonl", f"sources.rest.path={folder / 'rest.jsonl'}",
            "sources.rest.role=corpus", "controls.per_root=1",
        ],
    )  # fmt: skip
    chain = Runner.open(config, spark)
    chain.run()
    return chain


def test_chain_equals_the_oracle(runner: Runner) -> None:
    cache = Path(runner.config.node_cache).expanduser()
    store, value = runner.state.store, runner.state.fingerprint
    rows = store.read_ok("chunks", value("chunks")).collect()
    chunks = {row.chunk_id: (row.doc_id, row.text) for row in rows}
    folders = [prepare(ModelSpec(name), cache).path for name in (REAL_LM, REAL_ENCODER)]
    oracle = Oracle(*folders, 0, chunks, CUT, TOP_K)
    texts = dict(demo_documents("scipy.signal"))
    judged = runner.state.readings().where(F.col("kind") == "retrieved").collect()
    checked = 0
    for root in ROOTS:
        expected = oracle.root(root, texts[root], MAX_TOKENS, ALPHA, 1, WINDOW, EPSILON)
        of_root = F.col("root_id") == root
        scored = store.read_ok("scored_documents", value("scored_documents")).where(of_root).collect()[0]
        assert list(scored.input_ids) == expected.ids
        assert np.abs(np.frombuffer(scored.entropy, "<f4") - np.array(expected.entropy)).max() <= 1e-3
        anchors = store.read_ok("anchors", value("anchors")).where(of_root).collect()[0]
        assert anchors.threshold == pytest.approx(expected.threshold, abs=1e-3)
        assert [a.position for a in anchors.anchors] == expected.anchors
        hits = store.read_ok("candidates", value("candidates")).where(of_root).collect()
        assert {row.position: [hit.chunk_id for hit in row.hits] for row in hits} == expected.candidates
        readings = {(c.position, c.chunk_id): c for c in judged if c.root_id == root}
        assert set(readings) == set(expected.entropy_with)
        for key, after in expected.entropy_with.items():
            assert abs(readings[key].entropy_with - after) <= 1e-3
        assert {key for key, c in readings.items() if c.accepted} == expected.kept
        checked += len(expected.kept)
    assert checked > 0, "the comparison must hold something that was kept"


def test_default_rule_and_noverify_share_everything_measured(runner: Runner, spark: SparkSession) -> None:
    changed = runner.config.model_copy(update={"pack": runner.config.pack.model_copy(update={"recipe": "noverify"})})
    other = Runner.open(changed, spark)
    assert other.state.fingerprint("gains") == runner.state.fingerprint("gains") and other.state.fingerprint(
        "pairs"
    ) == runner.state.fingerprint("pairs")
    assert [done.step.writes for done in other.run(["verify", "pack"]).steps] == ["sequences"]
    verified, noverify = (r.state.ok_rows("sequences").collect() for r in (runner, other))

    def contexts(sequences: list[object]) -> dict[str, int]:
        roots = [s.root_id for q in sequences for s in q.segments if s.kind == "root"]
        return {r: len({d.chunk_id for q in sequences for d in q.dependencies if d.root_id == r}) for r in roots}

    assert contexts(verified) == contexts(noverify) and {q.recipe for q in noverify} == {"noverify"}
