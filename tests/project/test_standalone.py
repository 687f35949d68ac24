"""A standalone cluster on this machine, and what spark-submit does with the jobs there: the wheel, nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from entropylong.config import load_config
from entropylong.spark.session import _LOCAL_SETTINGS, java_options
from rehearsal.cluster import PLACE, SECONDS, SPARK_HOME, daemon, environment, log_value
from scripts.wheel import ROOT
from tests.conftest import CONF, MakeConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GPUS = ROOT / "scripts" / "gpus.sh"
DELTA = ("--packages", f"io.delta:delta-spark_2.13:{version('delta-spark')}")
# Small enough for this machine; and quick, as a local session is, for the many small queries of a small run.
SMALL = {
    "spark.executor.cores": "1", "spark.task.cpus": "1", "spark.executor.memory": "512m",
    **{key: value for key, value in _LOCAL_SETTINGS.items() if key.startswith(("spark.sql.", "spark.databricks."))},
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """A standalone master with one worker.

    Attributes:
        master: what --master takes.
        page: the master's page, as JSON.
        work: the worker's folder, with a folder an application.
        python: the interpreter that has the wheel.
        environment: of every process.
        java: options of driver and executors, to start quickly.
    """

    master: str
    page: str
    work: Path
    python: Path
    environment: dict[str, str]
    java: str

    def state(self) -> dict[str, Any]:
        with urlopen(self.page, timeout=SECONDS) as answer:
            return dict(json.load(answer))

    def submit(
        self, cwd: Path, *arguments: str, options: tuple[str, ...] = DELTA, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """jobs/run.py by spark-submit, as docs/spark-submit.md has it."""
        command = [
            str(SPARK_HOME / "bin" / "spark-submit"), "--master", self.master, *options,
            "--conf", f"spark.pyspark.python={self.python}",
            "--conf", f"spark.pyspark.driver.python={self.python.with_name('driver')}",
            "--total-executor-cores", "1", "--driver-memory", "1g",
            "--driver-java-options", self.java, "--conf", f"spark.executor.extraJavaOptions={self.java}",
            str(ROOT / "jobs" / "run.py"), *arguments,
        ]  # fmt: skip
        environment = self.environment | variables
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=3 * SECONDS)


def fake_nvidia_smi(folder: Path, *indices: str, status: int = 0) -> Path:
    """An nvidia-smi that knows one question; gives its folder, for PATH."""
    folder.mkdir(parents=True)
    answer = "".join(f"echo {index}\n" for index in indices) + f"exit {status}\n"
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$*" = "--query-gpu=index --format=csv,noheader" ] || exit 64\n{answer}')
    (folder / "nvidia-smi").chmod(0o755)
    return folder


@pytest.mark.parametrize("indices", [("0",), ("0", "1", "2")])
def test_gpus_are_told_as_spark_reads_them(indices: tuple[str, ...], tmp_path: Path) -> None:
    path = f"{fake_nvidia_smi(tmp_path / 'bin', *indices)}:{os.defpath}"
    done = subprocess.run([GPUS], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"name": "gpu", "addresses": list(indices)}


def test_no_gpu_is_made_up_where_none_answers(tmp_path: Path) -> None:
    """A driver that does not run, and a node without one."""
    for path in (f"{fake_nvidia_smi(tmp_path / 'bin', 'NVIDIA-SMI has failed', status=9)}:{os.defpath}", "/usr/bin:/bin"):
        done = subprocess.run([GPUS], env={"PATH": path}, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and done.stdout == ""


@pytest.fixture(scope="module")
def cluster(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    python = installed / "python"
    # A driver that YARN starts has no variable of Spark's scripts.
    driver = python.with_name("driver")
    driver.write_text(f'#!/bin/sh\nunset SPARK_ENV_LOADED\nexec {python} "$@"\n')
    driver.chmod(0o755)
    variables = environment()
    with ExitStack() as running:
        log = folder / "master.log"
        running.enter_context(daemon("master.Master", log, variables, *PLACE))
        master = log_value(log, r"Starting Spark master at (spark://\S+)")
        page = log_value(log, r"MasterWebUI.* started at (http://\S+)")
        log, work = folder / "worker.log", folder / "work"
        of_worker = variables | {
            "PATH": f"{fake_nvidia_smi(folder / 'bin', '0', '1')}:{variables['PATH']}",
            "SPARK_WORKER_OPTS": f"-Dspark.worker.resource.gpu.amount=2 -Dspark.worker.resource.gpu.discoveryScript={GPUS}",
        }
        size = ("--cores", "1", "--memory", "1g", "--work-dir", str(work))
        running.enter_context(daemon("worker.Worker", log, of_worker, *PLACE, *size, master))
        log_value(log, r"(Successfully registered) with master")
        java = java_options(Path(load_config(CONF / "demo.yaml").node_cache).expanduser())
        quick = " ".join(option for option in java if "ArchiveClassesAtExit" not in option)
        yield Cluster(master, f"{page}/json/", work, python, variables, quick)


def keys(tmp_path: Path, model: str | Path, encoder: Path) -> list[str]:
    return [
        f"workspace={tmp_path / 'workspace'}", f"node_cache={tmp_path / 'node'}", f"model.name={model}", f"encoder.name={encoder}",
        "model.document_start_id=0", "model.dtype=float32", "roots.min_tokens=64", "roots.max_tokens=300",
        "contexts.max_tokens=128", *(f"spark.conf.{key}={value}" for key, value in SMALL.items()),
    ]  # fmt: skip


def in_hub_cache(model: Path, home: Path) -> str:
    """The model as a download leaves it under HF_HOME; gives its id."""
    cached = home / "hub" / "models--entropylong--tiny"
    shutil.copytree(model, cached / "snapshots" / "0123abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abc")
    return "entropylong/tiny"


def test_stages_run_on_the_executors_of_a_cluster(
    cluster: Cluster, make_config: MakeConfig, corpus: Path, tiny_lm: Path, tiny_encoder: Path, tmp_path: Path, spark: SparkSession
) -> None:
    """With cluster.yaml, but for its GPUs, and a model from the hub's cache, which executors find by their own variables alone."""
    make_config(tmp_path / "workspace", corpus)  # it puts MLflow's tables there
    hub = tmp_path / "hub"
    own = keys(tmp_path, in_hub_cache(tiny_lm, hub), tiny_encoder)
    no_gpus = [f"spark.conf.spark.{part}.resource.gpu.amount=0" for part in ("executor", "task")]
    offline = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    of_executors = tuple(word for name, value in offline.items() for word in ("--conf", f"spark.executorEnv.{name}={value}"))
    stages = ("ingest", "chunk", "score")
    done = cluster.submit(
        tmp_path, *stages, "--config", "cluster", "--input", str(corpus), *own, *no_gpus, options=DELTA + of_executors, **offline
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]

    tables = tmp_path / "workspace" / "tables"
    ids = {
        name: [row.doc_id for row in spark.read.format("delta").load(str(tables / name)).where("outcome = 'ok'").collect()]
        for name in ("documents", "chunks", "scored_documents")
    }
    expected = [f"doc-{number:04d}" for number in range(12)]
    assert sorted(ids["documents"]) == sorted(ids["scored_documents"]) == expected and set(ids["chunks"]) == set(expected)

    (application,) = cluster.state()["completedapps"]
    assert application["id"].startswith("app-") and application["state"] == "FINISHED"
    log = (cluster.work / application["id"] / "0" / "stderr").read_text()
    # An executor tells the times of each Python worker of its own.
    assert re.search(r"Times: total = \d+, boot = ", log), log[-2000:]


def test_a_worker_finds_its_gpus_and_gives_an_executor_one(
    cluster: Cluster, corpus: Path, tiny_lm: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """With cluster.yaml as it is. Without Delta's jars, which only Spark can tell: that is one line and a status too."""
    (worker,) = cluster.state()["workers"]
    assert worker["resources"]["gpu"]["addresses"] == ["0", "1"]
    before = len(cluster.state()["completedapps"])
    own = keys(tmp_path, tiny_lm, tiny_encoder)
    done = cluster.submit(tmp_path, "ingest", "--config", "cluster", "--input", str(corpus), *own, options=())
    assert done.returncode == 1 and f"--packages {DELTA[1]}" in only_line(done)
    state = cluster.state()
    application = max(state["completedapps"], key=lambda app: app["id"])
    assert len(state["completedapps"]) == before + 1 and application["resourcesperslave"] == [{"name": "gpu", "amount": 1}]
    assert (cluster.work / application["id"] / "0").is_dir(), "no executor was started"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--config", "cluster", "retrieval.topk=3"), ("retrieval.topk", "retrieval.top_k")),
        (("--config", "missing.yaml"), ("missing.yaml", "no such config file")),
    ],
    ids=["misspelt key", "no such config"],
)
def test_a_mistake_is_one_line_and_a_status(
    cluster: Cluster, corpus: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    before = len(cluster.state()["completedapps"])
    done = cluster.submit(tmp_path, "ingest", "--input", str(corpus), *arguments)
    assert done.returncode == 2, done.stderr[-3000:]
    line = only_line(done)
    assert all(part in line for part in parts), line
    state = cluster.state()
    assert (len(state["completedapps"]), state["activeapps"]) == (before, []), "a cluster was asked for what cannot run"


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a mistake. What a driver prints, errors too, is on spark-submit's standard output; Spark's log is not."""
    (line,) = done.stdout.splitlines()
    assert line.startswith("error: ") and "Traceback" not in done.stderr, done.stdout + done.stderr[-3000:]
    return line
