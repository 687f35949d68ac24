"""Kills at the worst moments, and bad machines: the same result after a rerun, or one clear line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entropylong.config import Config
from entropylong.errors import ConcurrentRunError, EntropyLongError, TableError, WorkspaceError
from entropylong.pipeline.runner import Runner
from entropylong.pipeline.steps import steps_of
from entropylong.storage.schemas import TABLES
from entropylong.storage.writer import Writer
from tests.conftest import MakeConfig, OpenRunner, rows_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

APPEND = Writer.append

# A run of its own process in which the JVM dies right after the second append of a table, before the checkpoint knows.
KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from entropylong.config import Config
    from entropylong.pipeline.runner import Runner
    from entropylong.spark.session import session
    from entropylong.storage.writer import Writer

    config = Config.model_validate_json(sys.argv[1])
    spark = session(config)
    append, seen = Writer.append, []

    def append_and_die(self, frame):
        append(self, frame)
        seen.append(self.table)
        if seen.count(TABLE) == 2:
            os.kill(spark.sparkContext._gateway.proc.pid, signal.SIGKILL)
            os._exit(9)

    TABLE = sys.argv[2]
    Writer.append = append_and_die
    Runner.open(config, spark).run([sys.argv[3]])
    """
)


@pytest.fixture(scope="module")
def whole(spark: SparkSession, finished: Path, make_config: MakeConfig, corpus: Path) -> Runner:
    """What all is compared with: the finished workspace, resolved once; nothing runs in it."""
    return Runner.open(make_config(finished, corpus), spark)


@pytest.mark.e2e
def test_jvm_killed_between_write_and_checkpoint(
    copied: Path, whole: Runner, make_config: MakeConfig, open_runner: OpenRunner, corpus: Path
) -> None:
    """All roots scored anew over a table that is gone, with the kill in between; then gone on with."""
    for lost in ("tables/scored_documents", "checkpoints"):
        shutil.rmtree(copied / lost)
    config: Config = make_config(copied, corpus, "run.batch_bytes=1", "spark.master=local[1]")
    code = [sys.executable, "-c", KILLED, config.model_dump_json(), "scored_documents", "score"]
    done = subprocess.run(code, capture_output=True, check=False)
    assert done.returncode == 9, done.stderr.decode()[-3000:]
    resumed = open_runner(copied)
    written, all_ = (rows_of(runner, "scored_documents", ["root_id", "input_ids"]) for runner in (resumed, whole))
    assert 0 < len(written) < len(all_), "the kill must come after something was written and before the end"
    resumed.run(["score"])
    assert rows_of(resumed, "scored_documents", ["root_id", "input_ids"]) == all_


def _made_anew(workspace: Path) -> None:
    """The table that feeds the stream is another one with the same rows."""
    shutil.rmtree(workspace / "tables" / "scored_documents")


def _ahead(workspace: Path) -> None:
    """The checkpoint says that all was read, and the output is gone."""


def test_a_checkpoint_that_does_not_fit_is_a_cache_lost(
    copied: Path, whole: Runner, open_runner: OpenRunner, messages: list[str]
) -> None:
    """One harm after the other in one workspace: the rerun after the first leaves it as it was."""
    columns = ["root_id", "threshold"]
    for harm, idle in ((_ahead, ["score", "anchors"]), (_made_anew, [])):
        shutil.rmtree(copied / "tables" / "anchors")
        harm(copied)
        messages.clear()
        runner = open_runner(copied)
        runner.run(["score", "anchors"])
        assert any("anchors: its checkpoint does not fit the tables" in line for line in messages), harm
        assert rows_of(runner, "anchors", columns) == rows_of(whole, "anchors", columns), harm
        assert open_runner(copied).run(idle).steps == [], harm


def test_a_packing_that_failed_is_not_taken_for_the_one_before(copied: Path, whole: Runner, open_runner: OpenRunner) -> None:
    """The sequences are gone, their note is not; to pack them again fails half-way."""
    shutil.rmtree(copied / "tables" / "sequences")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EntropyLongError):
        patch.setattr(Writer, "append", _failing_append)
        open_runner(copied).run(["pack"])
    again = open_runner(copied)
    again.run(["pack"])
    columns = ["sequence_id", "input_ids"]
    assert rows_of(again, "sequences", columns) == rows_of(whole, "sequences", columns)
    assert open_runner(copied).run().steps == []


def _failing_append(self: Writer, frame: DataFrame) -> None:
    if self.table == "sequences":
        raise TableError("a fault")
    APPEND(self, frame)


def test_second_run_on_a_workspace_stops(copied: Path, open_runner: OpenRunner) -> None:
    runner = open_runner(copied)
    with runner.state.workspace.locked(), pytest.raises(WorkspaceError, match=r"another run is at work here \(process \d+"):
        open_runner(copied).run()
    assert open_runner(copied).run(["ingest"]).steps == []


@pytest.mark.parametrize("stage", ["ingest", "score", "search", "pack"])
def test_a_run_on_another_machine_comes_in_between(
    stage: str, copied: Path, whole: Runner, open_runner: OpenRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a workspace of its own, so no lock; it commits all rows after this run saw none of them, before this one writes."""
    table = steps_of([stage])[-1].writes
    shutil.rmtree(copied / "tables" / table)
    shutil.rmtree(copied / "checkpoints" / table, ignore_errors=True)
    shutil.copytree(copied, tmp_path / "other", ignore=shutil.ignore_patterns("tables"))
    came = []

    def append_after_the_other(self: Writer, frame: DataFrame) -> None:
        if self.table == table and not came:
            came.append(table)
            open_runner(tmp_path / "other", f"tables={copied / 'tables'}").run([stage])
        APPEND(self, frame)

    monkeypatch.setattr(Writer, "append", append_after_the_other)
    with pytest.raises(ConcurrentRunError, match=f"table {table}: a run on another machine"):
        open_runner(copied).run([stage])
    assert came
    columns = list(TABLES[table].key)
    assert rows_of(open_runner(copied), table, columns) == rows_of(whole, table, columns)


@pytest.mark.e2e
def test_the_lock_falls_with_its_process(tmp_path: Path, open_runner: OpenRunner, copied: Path) -> None:
    code = (
        "import sys, time; from entropylong.storage.workspace import Workspace\n"
        "with Workspace(sys.argv[1]).locked():\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(copied)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(WorkspaceError, match="another run"):
        open_runner(copied).run()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    time.sleep(0.1)
    assert open_runner(copied).run(["ingest"]).steps == []


def test_workspace_of_a_newer_version(copied: Path, open_runner: OpenRunner) -> None:
    (copied / "workspace.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(WorkspaceError, match="newer version"):
        open_runner(copied)


def test_full_disk_is_one_line_and_the_rerun_is_whole(tmp_path: Path, open_runner: OpenRunner, whole: Runner) -> None:
    """A real full disk: a small file system, mounted for this test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let a test mount a small file system")
    try:
        keys = ["tracking.uri=sqlite:///" + str(tmp_path / "ml.db")]
        with pytest.raises(EntropyLongError) as caught:
            open_runner(disk / "workspace", *keys).run(["ingest", "chunk"])
        assert "\n" not in str(caught.value) and isinstance(caught.value, TableError | WorkspaceError)
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        resumed = open_runner(disk / "workspace", *keys)
        resumed.run(["ingest", "chunk"])
        for table, key in (("documents", "doc_id"), ("chunks", "chunk_id")):
            assert rows_of(resumed, table, [key, "text"]) == rows_of(whole, table, [key, "text"])
    finally:
        subprocess.run(["umount", str(disk)], check=False)
