"""Tables by name: a whole pipeline over `tables: catalog.schema`, from a table of the user's, with all that looks after it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pyspark.sql import DataFrame, SparkSession

from entropylong.config import Config, load_config
from entropylong.errors import ConfigError, SourceError, TableError
from entropylong.maintenance.check import check_workspace
from entropylong.maintenance.tables import LEAST_HOURS, drop_leftovers, leftovers
from entropylong.pipeline.runner import Runner
from entropylong.reporting.status import status_rows
from entropylong.storage.schemas import TABLES
from entropylong.storage.statements import quoted
from entropylong.storage.store import Store
from entropylong.storage.writer import Writer
from tests import tiny
from tests.conftest import CONF, MakeConfig, rows_of

INPUT = "spark_catalog.lab_input.articles"
KEYS = [
    "sources.documents.columns.text=body",
    "sources.documents.columns.doc_id=url",
    "run.batch_bytes=1",
    "run.roots_per_unit=6",
]


@pytest.fixture(scope="module")
def schema(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for name in ("lab", "lab_input"):
        spark.sql(f"CREATE SCHEMA {name} LOCATION '{tmp_path_factory.mktemp(name)}'")
    rows = [(str(row["doc_id"]), str(row["text"])) for row in tiny.documents(12)]
    for part in range(3):
        frame = spark.createDataFrame(rows[4 * part : 4 * part + 4], "url STRING, body STRING")
        frame.write.format("delta").mode("append").saveAsTable(INPUT)
    yield "spark_catalog.lab"
    for name in ("lab", "lab_input"):
        spark.sql(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(scope="module")
def config(schema: str, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Config:
    workspace = tmp_path_factory.mktemp("catalog") / "workspace"
    base = make_config(workspace, workspace / "none.jsonl", f"tables={schema}", *KEYS[2:])
    source = load_config(
        CONF / "base.yaml", [*KEYS[:2], "sources.documents.kind=delta", f"sources.documents.table={INPUT}"]
    ).sources
    return base.model_copy(update={"sources": source})


@pytest.fixture(scope="module")
def reopened(config: Config) -> Iterator[list[str]]:
    """Files of the workspace that this process opens to write elsewhere than at the front of a new file."""
    paths: list[str] = []
    is_on = True

    def look(event: str, arguments: tuple[object, ...]) -> None:
        # A hook cannot be taken out again.
        if is_on and event == "open" and str(arguments[0]).startswith(config.workspace):
            _, mode, flags = arguments
            if set(str(mode or "")) & set("+a") or int(flags) & (os.O_RDWR | os.O_APPEND):  # type: ignore[call-overload]
                paths.append(str(arguments[0]))

    sys.addaudithook(look)
    yield paths
    is_on = False


@pytest.fixture(scope="module")
def done(config: Config, reopened: list[str], spark: SparkSession) -> Config:
    """Stopped by an error right after a commit in the middle of a stage, then run to its end."""
    append = Writer.append

    def append_and_fail(self: Writer, frame: DataFrame) -> None:
        append(self, frame)
        if self.table == "gains":
            raise TableError("the machine is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "append", append_and_fail)
        with pytest.raises(TableError, match="the machine is gone"):
            Runner.open(config, spark).run()
    Runner.open(config, spark).run(["verify", "pack"])
    return config


def versions(store: Store) -> dict[str, int]:
    store.forget_versions()
    return {table: store.version(table) for table in TABLES}


def test_a_pipeline_by_name_is_whole_and_a_rerun_does_nothing(done: Config, spark: SparkSession) -> None:
    runner = Runner.open(done, spark)
    before = versions(runner.state.store)
    there = spark.sql("SHOW TABLES IN spark_catalog.lab").where("NOT isTemporary").collect()
    assert sorted(row.tableName for row in there) == sorted(table for table, version in before.items() if version >= 0)
    assert not (Path(done.workspace) / "tables").exists()
    assert runner.run().steps == [] and versions(runner.state.store) == before
    assert all(row["left"] == 0 and row["rows_in"] for row in status_rows(runner.state))
    checks = check_workspace(runner.state)
    assert len(checks) >= 20 and not [check for check in checks if check.wrong]
    assert rows_of(runner, "sequences", ["sequence_id"])
    assert [row[0] for row in rows_of(runner, "documents", ["doc_id"])] == sorted(str(row["doc_id"]) for row in tiny.documents(12))


def test_files_are_written_from_front_to_back(done: Config, reopened: list[str]) -> None:
    """A Databricks volume takes nothing else. (Locks are leases there, and MLflow's files elsewhere.)"""
    assert {path.removeprefix(done.workspace) for path in reopened if "/mlflow-artifacts/" not in path} == {"/.lock"}


def test_a_table_is_made_with_comments_constraints_and_properties(done: Config, spark: SparkSession) -> None:
    address = Store(spark, done.tables).address("gains")
    properties = {row.key: row.value for row in spark.sql(f"SHOW TBLPROPERTIES {address}").collect()}
    assert properties["delta.enableDeletionVectors"] == "false"
    named = {f"delta.constraints.{name}": check for name, check in TABLES["gains"].checks.items()}
    assert named.items() <= properties.items()
    columns = {row.col_name: row.comment for row in spark.sql(f"DESCRIBE {address}").collect()}
    assert columns["readings"].startswith("At each anchor: entropy and NLL")
    assert spark.sql(f"DESCRIBE DETAIL {address}").collect()[0].partitionColumns == ["fingerprint"]


def test_mlflow_knows_the_table_by_its_name(done: Config) -> None:
    client = MlflowClient(done.tracking.uri)
    experiment = client.get_experiment_by_name(done.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])  # type: ignore[union-attr]
    sources = [json.loads(entry.dataset.source) for run in runs for entry in run.inputs.dataset_inputs]
    assert {"spark_catalog.lab.documents", "spark_catalog.lab.sequences"} <= {source["delta_table_name"] for source in sources}


def test_new_rows_of_the_user_s_table_are_read(done: Config, spark: SparkSession) -> None:
    ((url, body),) = [(str(row["doc_id"]), str(row["text"])) for row in tiny.documents(13)[12:]]
    spark.createDataFrame([(url, body)], "url STRING, body STRING").write.format("delta").mode("append").saveAsTable(INPUT)
    runner = Runner.open(done, spark)
    assert [step.keys for step in runner.run(["ingest"]).steps] == [1]
    assert len(rows_of(runner, "documents", ["doc_id"])) == 13


def test_upkeep_by_name(done: Config, spark: SparkSession) -> None:
    """gc drops what another setting made; compact and vacuum keep what is read."""
    Runner.open(done.with_keys(anchors={"alpha": 1.5}), spark).run(["anchors"])
    runner = Runner.open(done, spark)
    assert {left.table for left in drop_leftovers(runner.state)} == {"anchors"}
    assert leftovers(Runner.open(done, spark).state) == []
    before, (files, _) = rows_of(runner, "gains", ["pair_id", "readings"]), runner.state.store.files("gains")
    runner.state.store.compact("gains")
    runner.state.store.vacuum("gains", LEAST_HOURS)
    assert files > runner.state.store.files("gains")[0]
    assert rows_of(Runner.open(done, spark), "gains", ["pair_id", "readings"]) == before


def test_what_is_done_to_a_catalog_is_what_the_grants_are_for(done: Config, spark: SparkSession) -> None:
    """docs/databricks.md: CREATE TABLE, and what MODIFY allows; of the user's table nothing but SELECT."""
    store = Store(spark, done.tables)
    histories = [spark.sql(f"DESCRIBE HISTORY {store.address(table)}").collect() for table in TABLES if store.exists(table)]
    operations = {row.operation for rows in histories for row in rows}
    assert {"CREATE TABLE", "WRITE"} <= operations <= {"CREATE TABLE", "WRITE", "DELETE", "OPTIMIZE", "VACUUM START", "VACUUM END"}
    assert all(row.operation == "WRITE" or row.version == 0 for row in spark.sql(f"DESCRIBE HISTORY {INPUT}").collect())


def test_a_schema_that_is_not_there_is_told(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entropylong.storage.store.time.sleep", lambda seconds: None)
    with pytest.raises(TableError, match=r"^table documents: cannot be made: .*SCHEMA_NOT_FOUND.*nowhere") as caught:
        Store(spark, "spark_catalog.nowhere").create("documents")
    assert "\n" not in str(caught.value)


def test_a_source_table_that_is_not_there_is_told(done: Config, spark: SparkSession) -> None:
    source = done.sources["documents"].model_copy(update={"table": "spark_catalog.lab_input.nothing"})
    missing = done.model_copy(update={"sources": {"documents": source}})
    with pytest.raises(
        SourceError, match=r"^source documents: no readable Delta table at spark_catalog\.lab_input\.nothing: "
    ) as caught:
        Runner.open(missing, spark).run(["ingest"])
    assert "\n" not in str(caught.value)


def test_names_are_quoted(spark: SparkSession) -> None:
    assert Store(spark, "my-catalog.1st_web").address("gains") == "`my-catalog`.`1st_web`.`gains`"
    assert Store(spark, "/data/a`b").address("gains") == "delta.`/data/a``b/gains`"
    assert quoted("main.web.docs") == "`main`.`web`.`docs`"


@pytest.mark.parametrize("tables", ["main.web.docs", "main.we b", "`main`.web", "main.web;", ".web", "main.", "main.web.docs.x"])
@pytest.mark.parametrize("key", ["tables", "train.data.a.tables"])
def test_what_is_neither_a_schema_nor_a_directory_is_refused(key: str, tables: str) -> None:
    keys = [f"{key}={json.dumps(tables)}", "train.data.a.kind=sequences", "train.data.a.fingerprint=0123456789abcdef"]
    with pytest.raises(ConfigError, match=r"is neither catalog\.schema nor a directory") as caught:
        load_config(CONF / "base.yaml", keys)
    assert "\n" not in str(caught.value) and f"key '{key}'" in str(caught.value)


@pytest.mark.parametrize(
    "tables", ["main.web", "my-catalog.web", "./main.web.docs", "tables", "/data/tables v2", "s3://bucket/x.y.z"]
)
def test_schemas_and_directories_are_taken(tables: str) -> None:
    assert load_config(CONF / "base.yaml", [f"tables={tables}"]).tables == tables
