"""MLflow: the run tree, params, metrics, and datasets from which one can walk back to the documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from entropylong.pipeline.metrics.compute import latest_metrics
from entropylong.pipeline.steps import STEPS
from tests.conftest import OpenRunner

pytestmark = pytest.mark.runtime


def test_runs_datasets_and_figures(finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(finished)
    client = MlflowClient(tracking_uri=runner.config.tracking.uri)
    experiment = client.get_experiment_by_name("entropylong")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert set(children) == {
        "ingest", "chunk", "embed", "index", "score", "anchors", "search (queries)", "search", "pairs",
        "pairs (contexts)", "verify", "pack",
    }  # fmt: skip
    assert parent.data.params["anchors.alpha"] == "2.0" and len(parent.data.params) > 50
    # Walk from the sequences back to the documents, by fingerprint.
    made_by = {
        i.dataset.digest: run
        for run in children.values()
        for i in run.inputs.dataset_inputs
        if any(t.value == "output" for t in i.tags)
    }
    digests, front = set(), [runner.state.fingerprint("sequences")]
    while front:
        digest = front.pop()
        if digest in made_by and digest not in digests:
            digests.add(digest)
            front += [i.dataset.digest for i in made_by[digest].inputs.dataset_inputs]
    assert runner.state.fingerprint("documents") in digests and runner.state.fingerprint("gains") in digests
    for i in parent.inputs.dataset_inputs:
        assert json.loads(i.dataset.source)["delta_table_version"] >= 0 and json.loads(i.dataset.source)["path"]
    figures = latest_metrics(runner.state)
    for name in ("documents", "anchors_a_root", "passes", "pass_rate_retrieved_paper", "pass_rate_random_paper", "dependencies",
                 "distance_median", "filler_share", "tokens_per_second_gains", "error_rows"):  # fmt: skip
        assert figures[name] == parent.data.metrics[name], name
    assert {k for k in figures if k.startswith("band_")}


def test_a_figure_is_filed_under_its_own_stage(finished: Path, open_runner: OpenRunner) -> None:
    """Names of tables lie in one another: documents in scored_documents, anchors in anchors_a_root."""
    state = open_runner(finished).state
    filed = {row.name: row.stage for row in state.store.read("metrics", state.fingerprint("sequences")).collect()}
    assert filed.keys() == latest_metrics(state).keys()
    for step in STEPS:
        assert filed[f"seconds_{step.writes}"] == filed[f"keys_{step.writes}"] == step.name
    expected = {"documents": "ingest", "chunks": "chunk", "roots": "score", "forwarded_tokens_scored_documents": "score",
                "anchors_a_root": "anchors", "candidates": "search", "pairs_random": "pairs", "passes": "verify",
                "forwarded_tokens_gains": "verify", "fdr_paper": "verify", "dependencies": "verify", "sequences": "pack",
                "packed_dependencies": "pack", "error_rows": "run"}  # fmt: skip
    assert {name: filed[name] for name in expected} == expected


def test_figures_against_a_count_by_hand(finished: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(finished)
    figures = latest_metrics(runner.state)
    value = runner.state.fingerprint("sequences")
    record = json.loads((finished / "figures" / f"verified-{value[:8]}" / "figures.json").read_text())
    assert record["figures"] == figures and record["facts"]["fingerprint"] == value and record["facts"]["alpha"] == 2.0
    cells = runner.state.readings().toPandas()
    for kind in ("retrieved", "same_root", "random"):
        of_kind = cells[cells.kind == kind]
        assert figures[f"cells_{kind}"] == len(of_kind) > 0
        assert abs(figures[f"pass_rate_{kind}_paper"] - of_kind.passes_paper.mean()) < 1e-12
    sequences = runner.state.ok_rows("sequences").toPandas()
    distances = sorted(d["distance"] for row in sequences.dependencies for d in row)
    assert figures["packed_dependencies"] == len(distances)
    assert distances[0] <= figures["distance_median"] <= distances[-1]
    padded = sum(s["end"] - s["start"] for row in sequences.segments for s in row if s["kind"] == "pad")
    assert figures["padding_share"] == padded / (1024 * len(sequences))
    groups = Counter[str]()
    for segment in (s for row in sequences.segments for s in row if s["kind"] in ("root", "context")):
        groups[segment["root_id"]] += segment["end"] - segment["start"]
    assert figures["group_tokens"] == sum(groups.values()) / len(groups)
