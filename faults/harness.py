"""The workspace without a fault, copies of it, and processes that are made to suffer in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from entropylong.config import Config, load_config
from entropylong.pipeline.runner import Runner
from entropylong.spark.session import session
from entropylong.worker_daemon import HOOK
from faults import hook
from faults.compare import tables_of
from tests import tiny

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent
# Stage -> its tables, and a column that only what it writes at last has.
STAGES = {
    "score": (("scored_documents",), "input_ids"),
    "embed": (("chunk_vectors",), "vector"),
    "search": (("query_vectors", "candidates"), "hits"),
    "verify": (("gains",), "readings"),
    "pack": (("sequences",), "segments"),
}
# Executors start as quickly as a local driver: they live for seconds.
CLUSTER = ("spark.master=local-cluster[2,1,1024]", "spark.conf.spark.task.maxFailures=4",
           "spark.conf.spark.executor.extraJavaOptions=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
           f"spark.conf.spark.executorEnv.PYTHONPATH={ROOT}")  # fmt: skip
# One that hangs is ended; far beyond what three JVMs take on two cores that others use too.
SECONDS = 480


# (workspace, key=value, ...) -> the config of the matrix over it.
Configure = Callable[..., Config]


class Harness:
    """The workspace without a fault, copies of it to suffer, and the session that compares them.

    Args:
        place: a folder for the copies and all that they leave.
        whole: a workspace in which all stages ran; it is only read.
        configure: its config, over another workspace and with other keys.
        spark: the session.
    """

    def __init__(self, place: Path, whole: Path, configure: Configure, spark: SparkSession) -> None:
        self.place, self.whole, self.configure, self.spark = place, whole, configure, spark
        self.control = tables_of(Runner.open(configure(whole), spark))
        # One victim suffers while the one before it is compared: two processes on two cores.
        self.suffering, self.judging = threading.Lock(), threading.Lock()

    def config(self, name: str, *keys: str) -> Config:
        """Of a copy."""
        return self.configure(self.place / name, *keys)

    def copy(self, name: str) -> Path:
        """A copy of the workspace."""
        return Path(shutil.copytree(self.whole, self.place / name))

    def mark(self, name: str) -> Path:
        """The file that a fault makes when it happens in a copy."""
        return self.place / f"{name}.mark"

    def behind(self, name: str, stage: str) -> Path:
        """A copy of the workspace in which a stage never ran."""
        workspace = self.copy(name)
        for table in STAGES[stage][0]:
            shutil.rmtree(workspace / "tables" / table)
            shutil.rmtree(workspace / "checkpoints" / table, ignore_errors=True)
        return workspace

    def launch(
        self, name: str, stage: str, *keys: str, kind: str = "", kill_at: str = "", action: str = ""
    ) -> subprocess.Popen[bytes]:
        """Begin the stage (or another action) in a process of its own with a fault; what it says goes to a file by its name."""
        fault = {"KIND": kind, "COLUMN": STAGES[stage][1], "MARK": str(self.mark(name))}
        hooked = {HOOK: "faults.hook:suffer"} | {f"FAULT_{k}": v for k, v in fault.items()} if kind else {}
        own = [f"spark.conf.spark.executorEnv.{k}={v}" for k, v in hooked.items()]
        command = [sys.executable, "-m", "faults.victim", self.config(name, *keys, *own).model_dump_json(), action or stage]
        command += [kill_at, STAGES[stage][0][-1]] if kill_at else []
        env = os.environ | hooked | {"PYTHONPATH": str(ROOT)}
        with self._log(name).open("w") as log:
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)

    def suffer(self, name: str, stage: str, *keys: str, kind: str = "", kill_at: str = "", action: str = "") -> tuple[int, str]:
        """Run the stage in a process of its own with a fault; its exit code and the end of what it said."""
        with self.suffering:
            victim = self.launch(name, stage, *keys, kind=kind, kill_at=kill_at, action=action)
            deadline = time.monotonic() + SECONDS
            while victim.poll() is None and time.monotonic() < deadline:
                if kind == hook.DRIVER and self.mark(name).exists():
                    time.sleep(0.5)
                    break
                time.sleep(0.2)
            if victim.poll() is None:
                os.killpg(victim.pid, signal.SIGKILL)
            return victim.wait(), self.said_by(name)

    def recovered(self, name: str) -> Runner:
        """The workspace after a run without a fault."""
        runner = Runner.open(self.config(name), self.spark)
        runner.run()
        return runner

    def said_by(self, name: str) -> str:
        """The end of what a victim said."""
        return self._log(name).read_text()[-2000:]

    def _log(self, name: str) -> Path:
        return self.place / f"{name}.log"


def make_harness(place: Path) -> Harness:
    """A harness over a small corpus, tiny models and a run of its own, in a folder that is made anew.

    The batches are small, so that each stage makes several commits.
    """
    shutil.rmtree(place, ignore_errors=True)
    lm, encoder = tiny.make_causal_lm(place / "models" / "lm"), tiny.make_encoder(place / "models" / "encoder")
    rows = tiny.documents(8)
    for part in range(2):
        tiny.write_jsonl(place / "corpus" / f"part-{part}.jsonl", rows[4 * part : 4 * part + 4])

    def configure(workspace: Path, *keys: str) -> Config:
        own = [
            f"workspace={workspace}", f"node_cache={place / 'node_cache'}", f"model.name={lm}", f"encoder.name={encoder}",
            "roots.limit=null", "roots.min_tokens=64", "roots.max_tokens=300", "chunks.target_chars=400", "chunks.max_chars=800",
            "contexts.max_tokens=128", "pack.length=1024", "accept.rule=paper", "accept.epsilon=0.02", "retrieval.top_k=3",
            "accept.max_copy_tokens=null", "run.batch_bytes=1", "run.roots_per_unit=4", "quarantine.max_rate=0",
        ]  # fmt: skip
        return load_config(ROOT / "conf" / "demo.yaml", [*own, *keys], input_path=str(place / "corpus"))

    control = configure(place / "control")
    spark = session(control)
    Runner.open(control, spark).run()
    return Harness(place, place / "control", configure, spark)
