"""A sweep on real Spark: each variant is what a run of its own gives, and no reading is made twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pyspark.sql import SparkSession

from entropylong.config import Config
from entropylong.config.loader import split_values
from entropylong.errors import ConfigError, UsageError
from entropylong.experiments.sweep import first_stage, folder_of, run_sweep, sweep_table, variants
from entropylong.pipeline.runner import Runner
from tests.conftest import MakeConfig, OpenRunner, rows_of


def test_one_at_a_time_or_every_combination(make_config: MakeConfig, corpus: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, corpus)
    words = ["anchors.alpha=1.5,2.0", "pack.order=shuffle,anchor_order"]
    alone = variants(config, words, grid=False)
    assert [v.name for v in alone] == ["as configured", "anchors.alpha=1.5", "pack.order=anchor_order"], "the config's own once"
    every = variants(config, words, grid=True)
    assert len(every) == 4 and every[0].base and every[1].overrides == ["anchors.alpha=1.5", 'pack.order="shuffle"']
    assert [first_stage([key]).name for key in ("query.window", "accept.epsilon")] == ["search", "verify"]  # type: ignore[union-attr]
    both = variants(config, ["anchors.alpha=1.5,2.0", "anchors.alpha=3,1.5"], grid=False)
    assert [v.name for v in both] == ["as configured", "anchors.alpha=1.5", "anchors.alpha=3"], "given twice, all of its values"
    other, elsewhere = (make_config(tmp_path, corpus, key) for key in ("query.window=8", "run.batch_tokens=512"))
    assert folder_of(config, both) != folder_of(other, both) and folder_of(config, both) == folder_of(elsewhere, both)
    for message, words in (
        ("no key 'anchors.alfa'", ["anchors.alfa=1,2"]),
        ("run.batch_tokens decides no stage's result", ["run.batch_tokens=1,2"]),
        ("give the keys to sweep", []),
    ):
        with pytest.raises(UsageError, match=message):
            variants(config, words, grid=False)
    assert split_values("accept.max_copy_tokens=null,24") == ("accept.max_copy_tokens", [None, 24])
    with pytest.raises(ConfigError, match=r"must be key\.sub=value,value"):
        split_values("alpha")


def test_variants_share_what_was_measured(
    copied: Path,
    finished: Path,
    make_config: MakeConfig,
    corpus: Path,
    spark: SparkSession,
    open_runner: OpenRunner,
    messages: list[str],
) -> None:
    """Epsilon costs no pass; another alpha only those of its own anchors; each gives the table of a run of its own."""

    def load(more: object) -> object:
        return make_config(copied, corpus, *more)  # type: ignore[misc]

    chosen = variants(load(()), ["anchors.alpha=1.5,2.0", "accept.epsilon=0.02,0.3"], grid=False)  # type: ignore[arg-type]

    def broken_off(config: Config) -> Runner:
        if config.accept.epsilon == 0.3:
            raise KeyboardInterrupt
        return Runner.open(config, spark)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(load, chosen, broken_off)  # type: ignore[arg-type]
    outcomes = run_sweep(load, chosen, lambda config: Runner.open(config, spark))  # type: ignore[arg-type]
    base, alpha, epsilon = (outcome.figures for outcome in outcomes)
    assert base["new_passes"] == epsilon["new_passes"] == 0
    own, swept = open_runner(finished), open_runner(copied, "anchors.alpha=1.5")
    passes = [runner.state.ok_rows("gains").count() for runner in (own, swept)]
    assert alpha["new_passes"] == passes[1] - passes[0] > 0, "passes, not what was read in them"
    assert alpha["seconds"] > 0, "what it cost before the sweep was broken off"
    assert alpha["anchors"] > base["anchors"] == epsilon["anchors"] and epsilon["dependencies"] < base["dependencies"]
    assert base["dependencies"] == own.state.readings().where("accepted").count() and base["control_rate"] >= 0
    assert swept.run().steps == [], "what the sweep left is what a run of its own would give"
    assert rows_of(swept, "sequences", ["sequence_id"])
    (results,) = [line for line in messages if line.startswith("results and picture: ")]
    folder = Path(results.rpartition(": ")[2])
    rows = json.loads((folder / "results.json").read_text())
    assert [row["figures"]["anchors"] for row in rows] == [o.figures["anchors"] for o in outcomes]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert sweep_table(outcomes).row_count == 3
    client = MlflowClient(own.config.tracking.uri.replace(str(finished), str(copied)))
    experiment = client.get_experiment_by_name("entropylong")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`entropylong.sweep` != ''")
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert sorted(run.info.run_name for run in children) == sorted(variant.name for variant in chosen), "once each"
    assert parent.info.status == "FINISHED"
    assert {run.data.metrics["anchors"] for run in children} == {base["anchors"], alpha["anchors"]}
