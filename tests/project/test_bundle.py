"""The Databricks bundle, offline: every name in it is there, every job's parameters are understood by what it starts."""

from __future__ import annotations

import re
import runpy
import sys
from typing import Any

import pytest
import typer
import yaml
from databricks.bundles.jobs import Job
from databricks.bundles.schemas import Schema
from databricks.bundles.volumes import Volume

from entropylong.cli.app import app, call
from entropylong.cli.options import split_words
from entropylong.config import Config, load_config
from entropylong.core.stage import Resource
from entropylong.core.stage_names import STAGE_NAMES
from entropylong.errors import ConfigError, SetupError
from entropylong.pipeline.steps import STEPS
from entropylong.spark.session import require_classic
from tests.conftest import CONF

ROOT = CONF.parent
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
RESOURCES = sorted((ROOT / "conf" / "resources").glob("*.yml"))
KINDS = {"jobs": Job, "schemas": Schema, "volumes": Volume}
COMPLEX = {name: variable["default"] for name, variable in BUNDLE["variables"].items() if variable.get("type") == "complex"}
KNOWN: dict[str, dict[str, Any]] = {}


def expanded(tree: Any) -> Any:
    """With the value of a complex variable where the tree names one, as a deploy does."""
    if isinstance(tree, dict):
        return {key: expanded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [expanded(value) for value in tree]
    match = re.fullmatch(r"\$\{var\.(\w+)\}", tree) if isinstance(tree, str) else None
    return COMPLEX.get(match[1], tree) if match else tree


for file in RESOURCES:
    for kind, named in expanded(yaml.safe_load(file.read_text()))["resources"].items():
        KNOWN.setdefault(kind, {}).update(named)
JOBS = KNOWN["jobs"]
TASKS = [(job, task["task_key"]) for job, definition in JOBS.items() for task in definition["tasks"]]


def leaves(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree] if isinstance(tree, str) else []


def filled(text: str, job: dict[str, Any]) -> str:
    """As Databricks would: job parameters, variables, resources."""
    for parameter in job.get("parameters", []):
        text = text.replace(f"{{{{job.parameters.{parameter['name']}}}}}", str(parameter["default"]))
    for name, variable in BUNDLE["variables"].items():
        text = text.replace(f"${{var.{name}}}", str(variable["default"]))
    return re.sub(r"\$\{resources\.[\w.]+\}", "resolved", text)


def started(job: str, task_key: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Config, list[str]]:
    """What a task's file calls with its parameters: command, config, and the stages it names."""
    definition = JOBS[job]
    task = next(t for t in definition["tasks"] if t["task_key"] == task_key)["spark_python_task"]
    script = (ROOT / "conf" / "resources" / task["python_file"]).resolve()
    called: list[list[str]] = []
    monkeypatch.setattr("entropylong.cli.main", called.append)
    monkeypatch.setattr(sys, "argv", [str(script), *(filled(p, definition) for p in task["parameters"])])
    runpy.run_path(str(script), run_name="__main__")
    command: Any = typer.main.get_command(app)
    arguments = called[0]
    names = []
    while hasattr(command, "commands"):
        names.append(arguments[0])
        command, arguments = command.commands[arguments[0]], arguments[1:]
    options = command.make_context(names[-1], arguments).params
    stages, overrides = split_words(options.get("words"))
    return " ".join(names), load_config(options["config"], overrides, None), stages


@pytest.mark.parametrize(("job", "task_key"), TASKS)
def test_every_task_starts_what_it_says(job: str, task_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, config, stages = started(job, task_key, monkeypatch)
    if task_key in STAGE_NAMES:
        assert (command, stages) == ("run", [task_key])
    else:
        assert command == {"ruler": "evaluate ruler"}.get(task_key, task_key) and not stages
    assert config.tracking.uri == "databricks" and config.tracking.experiment.startswith("resolved")
    assert config.node_cache.startswith("/local_disk0/") or job == "entropylong_evaluate"
    if job == "entropylong_pipeline":
        (source,) = config.sources.values()
        assert source.kind == "delta" and source.role == "both" and source.columns.doc_id is None


def test_the_pipeline_is_a_chain_of_all_stages_then_the_report() -> None:
    tasks = JOBS["entropylong_pipeline"]["tasks"]
    keys = [task["task_key"] for task in tasks]
    assert keys == [*STAGE_NAMES, "report"]
    assert [[d["task_key"] for d in task.get("depends_on", [])] for task in tasks] == [[], *([key] for key in keys[:-1])]
    on_gpu = {task["task_key"] for task in tasks if task["job_cluster_key"] == "gpu"}
    declared = {step.name for step in STEPS if step.resources is Resource.GPU}
    assert on_gpu - {"report"} == declared, "a stage runs where its declaration says"


@pytest.mark.parametrize("name", sorted(JOBS))
def test_jobs_are_what_databricks_knows(name: str) -> None:
    job = Job.from_dict(JOBS[name])
    assert job.max_concurrent_runs and job.timeout_seconds and len(job.tasks) == len(JOBS[name]["tasks"])
    clusters = {cluster["job_cluster_key"]: cluster["new_cluster"] for cluster in JOBS[name]["job_clusters"]}
    assert {task["job_cluster_key"] for task in JOBS[name]["tasks"]} == set(clusters)
    assert all(cluster["data_security_mode"] == "SINGLE_USER" for cluster in clusters.values())
    with pytest.raises(ValueError, match="Unexpected field 'tiemout_seconds'"):
        Job.from_dict(JOBS[name] | {"tiemout_seconds": 5})


def test_other_resources_are_what_databricks_knows() -> None:
    assert set(KNOWN) == {*KINDS, "experiments"}
    for kind, maker in KINDS.items():
        for definition in KNOWN[kind].values():
            assert maker.from_dict(definition)  # type: ignore[attr-defined]


def test_every_name_is_there_and_every_variable_is_used() -> None:
    texts = [leaf for file in RESOURCES for leaf in leaves(yaml.safe_load(file.read_text()))]
    texts += leaves(BUNDLE["targets"]) + leaves(COMPLEX)
    used = {name for leaf in texts for name in re.findall(r"\$\{var\.(\w+)\}", leaf)}
    assert used == set(BUNDLE["variables"])
    assert all(variable["description"] for variable in BUNDLE["variables"].values())
    for leaf in texts:
        for kind, name in re.findall(r"\$\{resources\.(\w+)\.(\w+)", leaf):
            assert name in KNOWN[kind]
    for job in JOBS.values():
        named = {name for leaf in leaves(job) for name in re.findall(r"\{\{job\.parameters\.(\w+)\}\}", leaf)}
        assert named == {parameter["name"] for parameter in job.get("parameters", [])}


def test_two_developers_share_nothing() -> None:
    dev = BUNDLE["targets"]["dev"]
    assert dev["mode"] == "development" and "${workspace.current_user.short_name}" in dev["variables"]["schema"]
    assert "${workspace.current_user.userName}" in dev["workspace"]["root_path"]
    for job in JOBS.values():
        for leaf in leaves(job):
            # Tables and checkpoints are reached through the schema that the target names, never by a name written out.
            assert not re.search(r"^(tables|workspace)=(?!\$\{)", leaf)
    assert KNOWN["volumes"]["files"]["schema_name"] == "${resources.schemas.entropylong.name}"


def test_a_misspelt_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = JOBS["entropylong_demo"]["tasks"][0]["spark_python_task"]
    monkeypatch.setitem(task, "parameters", [*task["parameters"], "roots.limt=5"])
    with pytest.raises(ConfigError, match=r"unknown key 'roots\.limt'; the nearest valid key is 'roots\.limit'"):
        started("entropylong_demo", "run", monkeypatch)


def connected(version: str = "4.0.0") -> Any:
    """A session as serverless compute and standard access give one."""
    return type("SparkSession", (), {"__module__": "pyspark.sql.connect.session", "version": version})()


@pytest.mark.parametrize(
    ("serverless", "runtime", "kind"),
    [
        ("true", "client.4.1", "serverless compute"),
        ("", "client.4.1", "serverless compute"),
        ("", "17.3", "a cluster with standard access"),
        ("", "", "Spark Connect"),
    ],
)
def test_a_session_apart_from_spark_is_refused(serverless: str, runtime: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IS_SERVERLESS", serverless)
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", runtime)
    with pytest.raises(SetupError) as caught:
        require_classic(connected())
    assert str(caught.value) == (
        f"{kind} runs Python apart from Spark; take classic compute with dedicated access (in a job: a job cluster with "
        "data_security_mode: SINGLE_USER), runtime 17.3 LTS ML"
    )


def test_an_older_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "16.4")
    classic = type("SparkSession", (), {"__module__": "pyspark.sql.session", "version": "3.5.2"})()
    with pytest.raises(SetupError, match=r"^runtime 16\.4 has Spark 3\.5\.2, 4\.0 is needed; take runtime 17\.3 LTS ML$"):
        require_classic(classic)


def test_it_is_refused_before_the_models_are_looked_at(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", connected)
    assert call(["run", "--config", "base", "--input", "main.web.documents", "model.name=/Volumes/none"]) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: a cluster with standard access runs") and stderr.count("\n") == 1


def test_libraries_are_where_a_deploy_looks_for_them() -> None:
    """A path that does not begin with / is one of a file beside the job's, a reference in front of it included."""
    for job in JOBS.values():
        for task in job["tasks"]:
            for library in task["libraries"]:
                assert str(library.get("whl", "../")).startswith("../") and str(library.get("requirements", "/")).startswith("/")


def test_the_demo_asks_no_index() -> None:
    for task in JOBS["entropylong_demo"]["tasks"]:
        (library,) = task["libraries"]
        assert library == {
            "requirements": "/Volumes/${var.catalog}/${resources.schemas.entropylong.name}/${var.volume}/offline/requirements.txt"
        }
        names = [word for word in task["spark_python_task"]["parameters"] if ".name=" in word]
        assert len(names) == 2 and all("=${resources.volumes.files.volume_path}/offline/models/" in name for name in names)


def test_jobs_that_share_tables_are_told_the_same() -> None:
    tasks = [task for job in ("entropylong_pipeline", "entropylong_incremental") for task in JOBS[job]["tasks"]]
    assert all(task["spark_python_task"]["parameters"] == COMPLEX["where"] for task in tasks)
