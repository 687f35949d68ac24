"""`entropylong plan`: the paper's setting, what the sources are sampled to be, and what a real run then took."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from entropylong.cli.app import call
from entropylong.config import Config, load_config
from entropylong.config.schema import operational_keys
from entropylong.errors import ConfigError, SourceError
from entropylong.planning.corpus import CorpusSize, corpus_size
from entropylong.planning.estimate import Plan, make_plan
from entropylong.planning.sizes import sizes_of
from entropylong.planning.tables import amount
from entropylong.planning.verification import pairs_a_chunk
from tests.conftest import CONF, OpenRunner

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVERY_ROOT = ["roots.limit=null", "plan.root_tokens=null", "plan.anchors_per_root=null"]
STATED = ["plan.documents=1000000"]


def no_spark() -> SparkSession:
    raise AssertionError("no Delta source here")


def planned(name: str, *overrides: str) -> Plan:
    return make_plan(load_config(CONF / f"{name}.yaml", overrides), no_spark)


def hours(plan: Plan) -> dict[str, float]:
    return {way.name: plan.hours(way.work.flops) for way in plan.ways}


def test_the_papers_setting() -> None:
    plan = planned("paper")
    sizes = plan.sizes
    assert (sizes.documents, sizes.tokens, sizes.roots, sizes.queries) == (1e9, pytest.approx(1e12), 1e5, pytest.approx(29.2e6))
    # Its own arithmetic, by the book: 2 FLOPs a parameter, attention over half of the square, a full head in the literal way.
    body, pass_tokens = 32 * (2 * 4096 * 128 * 40 + 3 * 4096 * 14336), 1 + 2048 / 4.2 + 4096
    attention = 32 * 4 * 4096 * pass_tokens**2 / 2
    literal = 292 * 32 * 1e5 * (2 * body * pass_tokens + attention + 2 * 4096 * 128256 * pass_tokens)
    assert plan.ways[0].work.flops == pytest.approx(literal, rel=1e-6)
    assert hours(plan)["literal"] == pytest.approx(literal / (0.5 * 989e12) / 3600, rel=1e-6)
    # As verification is built: exact is at least 1.5 m times cheaper, and a budget or a screen cheaper still.
    assert hours(plan)["literal"] / hours(plan)["exact"] > 1.5 * 1.4
    assert hours(plan)["exact"] > hours(plan)["budget"] > hours(plan)["budget and screen"]
    assert hours(plan)["exact"] > hours(plan)["screened"]
    assert not any(line.startswith("search:") for line in plan.warnings), "the partitioned search is one that can be paid"
    whole = planned("paper", "retrieval.mode=broadcast", "retrieval.cells=1")
    assert [line.split(",")[0] for line in whole.warnings if line.startswith("search:")]


def test_every_document_a_root() -> None:
    plan = planned("paper", *EVERY_ROOT)
    assert plan.sizes.roots == 1e9 and plan.sizes.roots * plan.sizes.root_tokens == pytest.approx(1e12)
    score = next(stage for stage in plan.stages if stage.stage == "score")
    assert score.tokens == pytest.approx(1.001e12)
    with pytest.raises(ConfigError, match=r"every document is one, of 1,000 on average; give plan\.root_tokens=null"):
        planned("paper", "roots.limit=null")


def test_one_sum_over_all_stages() -> None:
    """The stages' FLOPs are those of the configured way, and hours those of its FLOPs."""
    for overrides in (STATED, [*STATED, "verify.budget_tokens=2000"], [*STATED, "verify.screen.kind=left_window"]):
        plan = planned("base", *overrides)
        verify = next(stage for stage in plan.stages if stage.stage == "verify")
        way = next(way for way in plan.ways if way.configured)
        assert (verify.flops, verify.tokens) == (way.work.flops, way.work.tokens)
        for stage in plan.stages:
            assert stage.flops is None or stage.device_hours == pytest.approx(stage.flops / plan.rate.flops / 3600)
            assert stage.rows > 0 and stage.storage > 0


@pytest.mark.parametrize(
    "override",
    [
        "plan.documents=2000000", "plan.document_tokens=900", "plan.chars_per_token=3", "plan.root_tokens=700",
        "plan.anchors_per_root=40", "plan.anchors_per_pair=2", "plan.accepted_share=0.3", "plan.proposed_share=0.5",
        "plan.device=A100", "plan.cores=8", "plan.utilisation=0.4", "plan.tokens_per_second=50000", "run.batch_bytes=100000000",
        "pack.buckets=3", "anchors.alpha=1.5", "anchors.max_per_root=8",
        "retrieval.top_k=8", "verify.scope=retrieved", "verify.budget_tokens=4096", "verify.screen.window=64",
        "contexts.max_tokens=256", "pack.length=65536", "roots.share=0.1", "roots.limit=500", "model.dtype=float32",
        "controls.per_root=9", "chunks.unit=document", "query.window=32",
        "query.side=left", "verify.screen.sample=0.5", "run.roots_per_unit=500000",
    ],
)  # fmt: skip
def test_each_key_that_costs_changes_the_plan(override: str) -> None:
    before = planned("base", *STATED).as_json()
    after = planned("base", *STATED, override).as_json()
    for part in ("assumptions", "warnings"):
        del before[part], after[part]
    assert before != after


def test_every_plan_key_is_tried_above() -> None:
    marks = test_each_key_that_costs_changes_the_plan.pytestmark  # type: ignore[attr-defined]
    tried = {override.split("=")[0] for override in marks[0].args[1]}
    assert {key for key in operational_keys() if key.startswith("plan.")} <= tried


def test_more_of_everything_costs_more() -> None:
    small, large = planned("base", *STATED), planned("base", "plan.documents=2000000")
    for one, other in zip(small.stages, large.stages, strict=True):
        if one.flops is not None:
            assert other.flops == pytest.approx(2 * one.flops, rel=1e-6), one.stage
    assert hours(planned("base", *STATED, "plan.tokens_per_second=1000"))["exact"] > hours(small)["exact"]


def test_shared_chunks_are_cheaper_where_a_unit_shares_them() -> None:
    alone = planned("paper", *EVERY_ROOT)
    shared = planned("paper", *EVERY_ROOT, "run.roots_per_unit=1000000000")
    assert "not shared (1.00 pairs a chunk" in alone.ways[1].about
    assert "shared by 334.0 roots" in shared.ways[1].about
    assert 0.5 < shared.ways[1].work.flops / alone.ways[1].work.flops < 0.85


def test_pairs_a_chunk_against_throwing_dice() -> None:
    config = load_config(CONF / "base.yaml", ["roots.limit=100", "plan.anchors_per_root=20", "plan.documents=700"])
    sizes = sizes_of(config, CorpusSize(700, 700, 700, 2048, ""))
    pairs, chunks = round(100 * sizes.pairs_a_root), round(sizes.chunks)
    thrown = np.random.default_rng(0).integers(0, chunks, pairs)
    assert pairs_a_chunk(config, sizes) == pytest.approx(pairs / len(np.unique(thrown)), rel=0.01)


def texts(number: int) -> list[str]:
    words = random.Random(0).choices(
        [f"{a}{b}" for a in ("con", "per", "sub", "tra") for b in ("form", "ceive", "mit", "verse")], k=99999
    )
    return [" ".join(words[i % 97 : i % 97 + 5 + i * 7 % 50]) for i in range(number)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "text"])
@pytest.mark.parametrize("number", [150, 9000])
def test_sources_are_sampled(kind: str, number: int, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    written = texts(number if kind != "text" else number // 10)
    for part in range(3):
        mine = written[part::3]
        if kind == "parquet":
            pq.write_table(pa.table({"text": mine}), folder / f"{part}.parquet")
        elif kind == "text":
            for i, text in enumerate(mine):
                (folder / f"{part}-{i}.txt").write_text(text)
        else:
            data = "".join(json.dumps({"text": text, "doc_id": str(i)}) + "\n" for i, text in enumerate(mine)).encode()
            (folder / f"{part}.{kind}").write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    size = corpus_size(load_config("base", input_path=str(folder)), no_spark)
    assert size.documents == pytest.approx(len(written), rel=0.25 if kind == "jsonl.gz" else 0.1)
    assert size.chars == pytest.approx(sum(map(len, written)) / len(written), rel=0.1)
    assert size.roots == size.corpus == size.documents


def test_roles_of_the_sources() -> None:
    config = load_config(CONF / "demo.yaml")
    size = corpus_size(config, no_spark)
    assert 0 < size.roots < size.documents == size.corpus


def test_a_delta_source_is_counted(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    spark.createDataFrame([("a" * 100,), ("b" * 300,), (None,)], "body STRING").write.format("delta").save(path)

    def size(at: str, *overrides: str) -> CorpusSize:
        keys = ["sources.mine.kind=delta", f"sources.mine.path={at}", *overrides]
        return corpus_size(load_config(CONF / "base.yaml", keys), lambda: spark)

    corpus = size(path, "sources.mine.columns.text=body", "sources.mine.columns.doc_id=null")
    assert (corpus.documents, corpus.chars) == (pytest.approx(2), 200), "a null is no document"
    with pytest.raises(SourceError, match="source mine: no column 'text'"):
        size(path)
    with pytest.raises(SourceError, match="source mine: no readable Delta table"):
        size(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["base"], "give --input PATH_OR_TABLE, or plan.documents=N"),
        (["paper", "plan.root_tokens=5000"], "above roots.max_tokens"),
        (["paper", "plan.root_tokens=512"], "102 can at most"),
        (["base", "plan.documents=5", "model.name=no_such"], "no such folder"),
        (["base", "plan.documents=1e9"], "valid integer"),
        (["base", "--input", "EMPTY"], "no text in the sample"),
        (["base", "--input", "FULL", "sources.full.role=corpus"], "no document with role root"),
        (["base", "--input", "FULL", "sources.full.role=root"], "no document with role corpus"),
        (["base", "plan.documents=5", "plan.root_tokens=33", "roots.min_tokens=2"], "no position beyond anchors.min_position"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").write_text("{}\n")
    (tmp_path / "full.jsonl").write_text(json.dumps({"text": "A text."}) + "\n")
    words = [str(tmp_path / f"{a.lower()}.jsonl") if a in ("EMPTY", "FULL") else a for a in arguments]
    assert call(["plan", "--config", *words]) in (1, 2)
    stderr = capsys.readouterr().err
    assert expected in stderr and len(stderr.strip().splitlines()) == 1, stderr


def test_the_command_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "--config", "paper"]) == 0
    output = capsys.readouterr().out
    for word in ("H100", "literal", "exact *", "screened", "Reckoned with", "plan.anchors_per_root = 292"):
        assert word in output
    assert call(["plan", "--config", "paper", "--json"]) == 0
    whole: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [way["way"] for way in whole["verification"]] == ["literal", "exact", "budget", "screened", "budget and screen"]
    assert whole["verification"][0]["device_hours"] > whole["verification"][1]["device_hours"] > 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (0.002, "2.0e-03 B"),
        (12, "12 B"),
        (999, "999 B"),
        (999.6, "1 KB"),
        (1.5e9, "1.5 GB"),
        (3e24, "3 YB"),
        (None, ""),
    ],
)
def test_amounts(value: float | None, expected: str) -> None:
    assert amount(value, "B") == expected


def test_a_plan_against_what_a_run_took(finished: Path, open_runner: OpenRunner) -> None:
    """Given a run's own ratios, the plan says how many passes and tokens it forwarded."""
    runner = open_runner(finished)
    frames = {name: runner.state.ok_rows(name) for name in ("scored_documents", "anchors", "pairs")}
    roots, tokens = (
        frames["scored_documents"].join(frames["anchors"], "root_id", "left_semi").agg(F.count("*"), F.avg("n_tokens")).collect()[0]
    )
    anchors = frames["anchors"].agg(F.avg(F.size("anchors"))).collect()[0][0]
    pairs = frames["pairs"].where("kind = 'candidate'")
    cells = pairs.select(F.explode("anchors.rank").alias("rank")).where("rank IS NOT NULL").count()
    done = runner.state.ok_rows("gains")
    passes, context = done.count(), done.agg(F.avg("n_context_tokens")).collect()[0][0]
    ends = (
        done.select((F.array_max("readings.position") + 1 + F.col("n_context_tokens")).alias("n")).agg(F.sum("n")).collect()[0][0]
    )
    config: Config = runner.config
    keys = [
        f"plan.root_tokens={round(tokens)}", f"plan.anchors_per_root={anchors}", f"plan.anchors_per_pair={cells / pairs.count()}",
        f"roots.limit={roots}", "roots.min_tokens=64", "roots.max_tokens=300", "contexts.max_tokens=128", "retrieval.top_k=3",
        f"plan.documents={12 * roots}", f"plan.document_tokens={round(context)}", f"chunks.target_chars={round(4.2 * context)}",
        f"controls.per_root={config.controls.per_root}", "plan.device=here",
    ]  # fmt: skip
    exact = planned("demo", *keys).ways[1].work
    assert exact.passes == pytest.approx(passes, rel=0.05)
    assert exact.tokens == pytest.approx(ends, rel=0.15)
