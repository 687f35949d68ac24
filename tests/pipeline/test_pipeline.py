"""The runner's promises on a real Spark and Delta: nothing lost, nothing twice, nothing measured again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entropylong.core.results import RunResult
from entropylong.core.stage_names import MEASURED
from entropylong.errors import NothingToDoError
from entropylong.pipeline.backlog import counts
from entropylong.pipeline.metrics.compute import compute_metrics
from entropylong.pipeline.runner import Runner
from entropylong.pipeline.steps import STEPS, step_writing
from entropylong.storage.schemas import TABLES
from tests import tiny
from tests.conftest import MakeConfig, OpenRunner, rows_of, versions

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

READINGS = ("pair_id", "root_id", "chunk_id", "readings")


@pytest.mark.runtime
def test_every_stage_wrote_ok_rows_and_conserved_its_keys(finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(finished)
    from entropylong.reporting.status import status_rows

    rows = {row["table"]: row for row in status_rows(runner.state)}
    beside = {table for step in STEPS for table in step.beside}
    assert set(rows) == {*TABLES, "index"} - {"metrics", "artifacts"} - beside
    for table, row in rows.items():
        assert row["left"] == 0 and row["rows_in"] > 0 and row["quarantined"] == 0, (table, row)
    assert rows["documents"]["done"] == 12


@pytest.mark.runtime
def test_sequences_are_exact_and_reassemble(finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(finished)
    ctx, store = runner.state.context, runner.state.store
    sequences = store.read_ok("sequences", runner.state.fingerprint("sequences")).collect()
    roots = {
        r.root_id: r.input_ids for r in store.read_ok("scored_documents", runner.state.fingerprint("scored_documents")).collect()
    }
    chunks = {c.chunk_id: c.ids for c in runner.state.ok_rows("context_ids").collect()}
    assert sequences
    from entropylong.models.cache import load

    tokenizer = load(ctx.causal_lm.tokenizer())
    separator = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    for sequence in sequences:
        assert len(sequence.input_ids) == 1024
        rebuilt: list[int] = []
        for s in sequence.segments:
            assert s.start == len(rebuilt)
            piece = {"start": [0], "separator": separator, "pad": [1] * (s.end - s.start)}.get(s.kind)
            piece = piece or (roots[s.root_id] if s.kind == "root" else chunks[s.chunk_id])
            rebuilt += list(piece)
            assert s.end == len(rebuilt)
        assert rebuilt == sequence.input_ids
        used = [s.chunk_id for s in sequence.segments if s.kind == "context"]
        assert len(used) == len(set(used))
        for d in sequence.dependencies:
            assert d.distance == d.anchor - d.context_end >= 0


def test_long_roots_are_split(copied: Path, open_runner: OpenRunner) -> None:
    """Pieces are roots of their own: scored, searched without their whole document's chunks, packed."""
    before = versions(copied)
    runner = open_runner(copied, "roots.long=split", "roots.max_tokens=128")
    runner.run(["score", "anchors", "search", "pairs", "verify", "pack"])
    scored = runner.state.ok_rows("scored_documents").collect()
    assert len({row.root_id for row in scored}) == len(scored) > len({row.doc_id for row in scored}) == 12
    for whole in open_runner(copied).state.ok_rows("scored_documents").collect():  # cut at 300 tokens there
        pieces = sorted((r for r in scored if r.doc_id == whole.doc_id), key=lambda r: int(r.root_id.rpartition("#")[2]))
        assert [i for piece in pieces for i in piece.input_ids][:300] == whole.input_ids
        assert all(64 <= piece.n_tokens <= 128 for piece in pieces)
    owner = {r.chunk_id: r.doc_id for r in runner.state.ok_rows("chunks").collect()}
    pairs = runner.state.ok_rows("pairs").collect()
    assert {p.root_id for p in pairs} == {row.root_id for row in scored if row.root_id in {p.root_id for p in pairs}} != set()
    assert all(owner[p.chunk_id] != p.root_id.rpartition("#")[0] for p in pairs)
    sequences = runner.state.ok_rows("sequences").collect()
    assert any("#" in s.root_id for row in sequences for s in row.segments if s.kind == "root")
    after = versions(copied)
    again = open_runner(copied, "roots.long=split", "roots.max_tokens=128")
    # All stages: those of the corpus, which did not run above, have nothing to do either.
    assert again.run().steps == [] and versions(copied) == after
    assert after["chunk_vectors"] == before["chunk_vectors"]


@pytest.fixture(scope="module")
def searched_by_another_alpha(
    finished: Path, spark: SparkSession, make_config: MakeConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The finished workspace after anchors and candidates of a second alpha. Copy it before changing it."""
    workspace = Path(shutil.copytree(finished, tmp_path_factory.mktemp("alpha") / "workspace"))
    Runner.open(make_config(workspace, corpus, "anchors.alpha=1.7"), spark).run(["anchors", "search"])
    return workspace


def test_alpha_measures_only_what_was_never_measured(
    searched_by_another_alpha: Path, open_runner: OpenRunner, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(searched_by_another_alpha, tmp_path / "workspace"))
    old = open_runner(copied)
    old_readings = {(r[0], p.position) for r in rows_of(old, "gains", READINGS) for p in r[3]}
    before = versions(copied)
    # Both are planned before either is measured: neither's verification may pass over the other's pairs.
    plans = [["anchors.alpha=1.7", f"controls.per_root={controls}"] for controls in (1, 4)]
    for plan in plans:
        open_runner(copied, *plan).run(["pairs"])
    for plan in plans:
        runner = open_runner(copied, *plan)
        assert [done.step.writes for done in runner.run(["verify"]).steps] == ["gains"]
    assert versions(copied)["scored_documents"] == before["scored_documents"]
    now = [(r[0], p.position) for r in rows_of(runner, "gains", READINGS) for p in r[3]]
    assert len(now) == len(set(now)), "a reading was taken twice"
    assert old_readings < set(now)
    measured = set(now)
    anchors = dict(runner.state.ok_rows("anchors").select("root_id", "anchors.position").collect())
    pairs = runner.state.ok_rows("pairs").select("pair_id", "root_id").collect()
    asked = {(pair.pair_id, position) for pair in pairs for position in anchors[pair.root_id]}
    assert old_readings & asked, "some readings must have been known already"
    for pair in pairs:
        assert all((pair.pair_id, position) in measured for position in anchors[pair.root_id])


def test_epsilon_and_scope_pack_again_without_a_forward_pass(copied: Path, open_runner: OpenRunner) -> None:
    """Gains are shared; a setting sees of them what it planned itself, so it packs as if it were alone."""
    before = versions(copied)
    old = open_runner(copied)
    strict = open_runner(copied, "accept.epsilon=0.2")
    assert strict.state.fingerprint("sequences") != old.state.fingerprint("sequences")
    assert [strict.state.fingerprint(table) for table in ("pairs", "gains")] == [
        old.state.fingerprint(table) for table in ("pairs", "gains")
    ]
    assert {r.kind for r in old.state.readings().select("kind").distinct().collect()} == {"retrieved", "same_root", "random"}
    narrow = open_runner(copied, "verify.scope=retrieved", "accept.epsilon=0.2")
    # No other stage takes either key into its fingerprint, and so none has anything to do.
    earlier = [step.writes for step in STEPS[: STEPS.index(step_writing("pairs"))]]
    assert [narrow.state.fingerprint(table) for table in earlier] == [old.state.fingerprint(table) for table in earlier]
    ran = [done.step.writes for done in narrow.run(["score", "pairs", "verify", "pack"]).steps]
    assert ran == ["pairs", "sequences"], "every reading was there"
    after = versions(copied)
    assert {t for t in after if after[t] != before[t]} == {"pairs", "sequences", "metrics", "artifacts"}
    assert {r.kind for r in narrow.state.readings().select("kind").distinct().collect()} == {"retrieved", "random"}
    again = counts(open_runner(copied).state, step_writing("sequences"))
    assert again is not None and again.left == 0


def test_figures_of_anchors_that_another_alpha_found_are_not_this_one_s(
    searched_by_another_alpha: Path, open_runner: OpenRunner
) -> None:
    runner = open_runner(searched_by_another_alpha)
    figures, hits = (
        compute_metrics(runner.state, RunResult(run_id="")),
        runner.state.ok_rows("candidates"),
    )
    assert figures["candidates"] == figures["cells_retrieved"] < sum(len(row.hits) for row in hits.collect())


def test_second_run_makes_no_commit_and_makes_a_lost_index_and_figures_again(copied: Path, open_runner: OpenRunner) -> None:
    before, figures = versions(copied), [file.read_text() for file in copied.glob("figures/*/figures.json")]
    shutil.rmtree(copied / "figures")
    assert open_runner(copied).run().steps == []
    assert len(figures) == 1 and [file.read_text() for file in copied.glob("figures/*/figures.json")] == figures, (
        "also where there were none"
    )
    assert versions(copied) == before and set(before) == {*TABLES} - {"query_cells", "partial_candidates"}
    shutil.rmtree(copied / "index")
    shutil.rmtree(copied / "tables" / "metrics")
    runner = open_runner(copied)
    # All that comes after the index; that what comes before is idle was seen above.
    result = runner.run(["index", "search", "pairs", "verify", "pack"])
    assert [done.step.writes for done in result.steps] == ["index"] and result.figures["sequences"] > 0
    after = versions(copied)
    assert {t for t in after if after[t] != before[t]} <= {"metrics"}


def test_half_a_stage_decides_nothing(tmp_path: Path, open_runner: OpenRunner, corpus: Path) -> None:
    """As after a kill: one of three input files is committed, and ingest never finished. Later, more documents arrive."""
    folder = tmp_path / "corpus"
    folder.mkdir()

    def open_five() -> Runner:
        return open_runner(tmp_path / "w", "roots.limit=5", source=folder)

    shutil.copy(corpus / "part-0.jsonl", folder)

    def ingest_and_die() -> None:
        half = open_five()
        half.state.registry.complete = half.state.registry.flush = lambda *_: None  # type: ignore[method-assign,assignment]
        half.run(["ingest"])

    ingest_and_die()
    idle_runner = open_five()
    idle_runner.state.resolve_roots()
    assert idle_runner.state.context.root_threshold is not None
    for stage in ("score", "index"):
        with pytest.raises(NothingToDoError, match="ingest"):
            open_five().run([stage])
    shutil.copytree(corpus, folder, dirs_exist_ok=True)
    ingest_and_die()
    assert open_five().run(["ingest"]).steps == [], "all is there, only the note of it was lost"
    whole = open_five()
    whole.run(["chunk", "score"])
    first = rows_of(whole, "scored_documents", ["root_id"])
    assert len(first) == 5
    with pytest.raises(NothingToDoError, match="stage embed is not finished"):
        open_five().run(["index"])
    new = [{"doc_id": f"new-{i}", "text": row["text"]} for i, row in enumerate(tiny.documents(6, seed=5))]
    tiny.write_jsonl(folder / "part-9.jsonl", new)
    later = open_five()
    later.run(["ingest", "score"])
    assert later.state.context.root_threshold == whole.state.context.root_threshold, (
        "the choice is pinned once it was made over all documents"
    )
    assert set(first) <= set(rows_of(later, "scored_documents", ["root_id"]))


def test_lost_checkpoints_add_no_row_and_drop_none(copied: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    tables = ("chunks", "chunk_vectors", "scored_documents", "anchors")
    for table in tables:
        commits = (copied / "tables" / table / "_delta_log").glob("*.json")
        assert sum('"operation":"WRITE"' in commit.read_text() for commit in commits) >= 3, (
            f"{table}: the loss must be tested over three batches or more"
        )
    before = {table: rows_of(runner, table, [TABLES[table].key[0]]) for table in tables}
    shutil.rmtree(copied / "checkpoints")
    folder = copied.with_name("more") / "corpus"
    shutil.copytree(Path(runner.config.sources["corpus"].path or ""), folder)
    tiny.write_jsonl(folder / "part-9.jsonl", [{"doc_id": "new", "text": tiny.documents(1, seed=9)[0]["text"]}])
    # Other batches than before: the new document comes under a number that an old batch had.
    again = open_runner(copied, "run.batch_bytes=auto", source=folder)
    again.run(MEASURED)
    for table in tables:
        after = rows_of(again, table, [TABLES[table].key[0]])
        assert len(after) == len(set(after)), f"{table}: a row was doubled"
        assert set(before[table]) < set(after), f"{table}: a row was lost, or the new document did not arrive"


def test_arrival_order_changes_nothing(finished: Path, open_runner: OpenRunner, corpus: Path, tmp_path: Path) -> None:
    """All in one file and in reverse, half of the roots first: raising the share only adds roots, and all ends the same."""
    folder, workspace = tmp_path / "corpus", tmp_path / "workspace"
    rows = [line for part in sorted(corpus.glob("*.jsonl")) for line in part.read_text().splitlines()]
    tiny.write_jsonl(folder / "all.jsonl", [json.loads(line) for line in reversed(rows)])
    half = open_runner(workspace, "run.batch_bytes=auto", "roots.share=0.5", source=folder)
    half.run(["ingest", "score"])
    few = rows_of(half, "scored_documents", ["root_id"])
    one, other = open_runner(finished), open_runner(workspace, "run.batch_bytes=auto", source=folder)
    other.run()
    many = rows_of(other, "scored_documents", ["root_id"])
    assert 0 < len(few) < 12 and set(few) < set(many) and len(many) == len(set(many)) == 12
    columns = ["sequence_id", "input_ids"]
    assert rows_of(one, "sequences", columns) == rows_of(other, "sequences", columns)


@pytest.mark.runtime
def test_views_and_describe_explain_the_data(finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(finished)
    for table in TABLES:
        runner.state.fingerprint(table) if table not in ("metrics", "artifacts") else None
    runner.state.store.refresh_views(runner.state.context.fingerprints)
    assert runner.state.spark.table("current_documents").count() == 12
    described = runner.state.spark.sql(f"DESCRIBE {runner.state.store.address('gains')}").collect()
    comments = {row.col_name: row.comment for row in described}
    assert all(comments[name] for name, _, _ in TABLES["gains"].columns)
