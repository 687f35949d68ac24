"""A standalone cluster on this machine, and what spark-submit does with the jobs there: the wheel, nothing of the checkout."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pyspark
import pytest

from scripts.wheel import ROOT, build, install

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SPARK_HOME = Path(pyspark.__file__).parent
SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """A standalone master with one worker.

    Attributes:
        master: what --master takes.
        page: the master's page, as JSON.
        work: the worker's folder, with a folder an application.
        python: the interpreter that has the wheel.
        environment: of every process.
    """

    master: str
    page: str
    work: Path
    python: Path
    environment: dict[str, str]

    def state(self) -> dict[str, Any]:
        with urlopen(self.page, timeout=SECONDS) as answer:
            return dict(json.load(answer))

    def submit(self, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """jobs/run.py by spark-submit, as docs/spark-submit.md has it, with little memory."""
        command = [
            str(SPARK_HOME / "bin" / "spark-submit"), "--master", self.master,
            "--packages", f"io.delta:delta-spark_2.13:{version('delta-spark')}",
            "--conf", f"spark.pyspark.python={self.python}",
            "--conf", f"spark.pyspark.driver.python={self.python.with_name('driver')}",
            "--total-executor-cores", "2", "--driver-memory", "1g", "--executor-memory", "1g", "--executor-cores", "2",
            str(ROOT / "jobs" / "run.py"), *arguments,
        ]  # fmt: skip
        return subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=3 * SECONDS
        )


@contextmanager
def daemon(name: str, log: Path, environment: dict[str, str], *arguments: str) -> Iterator[None]:
    """A daemon of Spark's with what it starts, until the block ends, however it ends."""
    command = [str(SPARK_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=log.parent, start_new_session=True)
    try:
        yield
    finally:
        # Its process group: a worker's executors are in it.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def said(log: Path, pattern: str) -> str:
    """What a daemon's log says, once it does."""
    until = time.monotonic() + SECONDS
    while not (found := re.search(pattern, log.read_text())):
        assert time.monotonic() < until, log.read_text()[-2000:]
        time.sleep(0.1)
    return found[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    python = install(build("wheel", ROOT, folder / "dist"), folder / "env") / "python"
    # A driver that YARN starts has no variable of Spark's scripts.
    driver = python.with_name("driver")
    driver.write_text(f'#!/bin/sh\nunset SPARK_ENV_LOADED\nexec {python} "$@"\n')
    driver.chmod(0o755)
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "JAVA_HOME") if key in os.environ} | {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
        "SPARK_DAEMON_MEMORY": "256m",
    }
    place = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
    with ExitStack() as running:
        log = folder / "master.log"
        running.enter_context(daemon("master.Master", log, environment, *place))
        master = said(log, r"Starting Spark master at (spark://\S+)")
        page = said(log, r"MasterWebUI.* started at (http://\S+)")
        log, work = folder / "worker.log", folder / "work"
        size = ("--cores", "2", "--memory", "1g", "--work-dir", str(work))
        running.enter_context(daemon("worker.Worker", log, environment, *place, *size, master))
        said(log, r"(Successfully registered) with master")
        yield Cluster(master, f"{page}/json/", work, python, environment)


@pytest.fixture
def keys(tmp_path: Path, tiny_lm: Path, tiny_encoder: Path) -> list[str]:
    return [
        f"workspace={tmp_path / 'workspace'}", f"node_cache={tmp_path / 'node'}",
        f"model.name={tiny_lm}", f"encoder.name={tiny_encoder}", "roots.min_tokens=64",
        "spark.conf.spark.sql.shuffle.partitions=2", "spark.conf.spark.databricks.delta.snapshotPartitions=2",
    ]  # fmt: skip


def test_stages_run_on_the_executors_of_a_cluster(
    cluster: Cluster, keys: list[str], corpus: Path, tmp_path: Path, spark: SparkSession
) -> None:
    done = cluster.submit(tmp_path, "ingest", "chunk", "score", "--config", "demo", "--input", str(corpus), *keys)
    assert done.returncode == 0, done.stderr[-3000:]
    tables = tmp_path / "workspace" / "tables"
    found = {
        name: spark.read.format("delta").load(str(tables / name)).where("outcome = 'ok'")
        for name in ("documents", "chunks", "scored_documents")
    }
    wanted = {f"doc-{number:04d}" for number in range(12)}
    assert {row.doc_id for row in found["documents"].collect()} == wanted and found["documents"].count() == 12
    assert {row.doc_id for row in found["chunks"].collect()} == wanted
    assert {row.doc_id for row in found["scored_documents"].collect()} <= wanted and found["scored_documents"].count() > 0

    (application,) = cluster.state()["completedapps"]
    assert application["id"].startswith("app-") and application["state"] == "FINISHED"
    log = (cluster.work / application["id"] / "0" / "stderr").read_text()
    assert re.search(r"Finished task .* in stage", log), log[-2000:]


def test_a_misspelt_key_is_one_line_and_a_status(cluster: Cluster, keys: list[str], corpus: Path, tmp_path: Path) -> None:
    before = len(cluster.state()["completedapps"])
    done = cluster.submit(tmp_path, "ingest", "--config", "demo", "--input", str(corpus), *keys, "retrieval.topk=3")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "retrieval.topk" in line and "retrieval.top_k" in line
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr and done.stdout == ""
    state = cluster.state()
    assert (len(state["completedapps"]), state["activeapps"]) == (before, []), "a cluster was asked for what cannot run"
