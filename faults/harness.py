"""The workspace without a fault, copies of it, and processes that are made to suffer in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from entropylong.config import Config, load_config
from entropylong.pipeline.runner import Runner
from entropylong.spark.session import session
from faults import daemon
from faults.compare import tables_of
from tests import tiny

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "runs" / "faults"
# Stage -> its tables, and a column that only what it writes at last has.
STAGES = {
    "score": (("scored_documents",), "input_ids"),
    "embed": (("chunk_vectors",), "vector"),
    "search": (("query_vectors", "candidates"), "hits"),
    "verify": (("gains",), "readings"),
    "pack": (("sequences",), "segments"),
}
CLUSTER = ("spark.master=local-cluster[2,1,1024]", "spark.conf.spark.task.maxFailures=4",
           f"spark.conf.spark.executorEnv.PYTHONPATH={ROOT}")  # fmt: skip
SECONDS = 240


class Harness:
    """The workspace without a fault, copies of it to suffer, and the session that compares them."""

    def __init__(self) -> None:
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        self.models = (tiny.make_causal_lm(PLACE / "models" / "lm"), tiny.make_encoder(PLACE / "models" / "encoder"))
        rows = tiny.documents(8)
        for part in range(2):
            tiny.write_jsonl(PLACE / "corpus" / f"part-{part}.jsonl", rows[4 * part : 4 * part + 4])
        self.spark = session(self.config("control"))
        runner = Runner.open(self.config("control"), self.spark)
        runner.run()
        self.control = tables_of(runner)
        # One victim suffers while the one before it is compared: two processes on two cores.
        self.suffering, self.judging = threading.Lock(), threading.Lock()

    def config(self, workspace: str, *keys: str) -> Config:
        """Of a workspace: small batches, so that each stage makes several commits."""
        lm, encoder = self.models
        own = [
            f"workspace={PLACE / workspace}", f"node_cache={PLACE / 'node_cache'}", f"model.name={lm}", f"encoder.name={encoder}",
            "roots.limit=null", "roots.min_tokens=64", "roots.max_tokens=300", "chunks.target_chars=400", "chunks.max_chars=800",
            "contexts.max_tokens=128", "pack.length=1024", "accept.rule=paper", "accept.epsilon=0.02", "retrieval.top_k=3",
            "accept.max_copy_tokens=null", "run.files_per_batch=1", "run.roots_per_unit=4", "quarantine.max_rate=0",
        ]  # fmt: skip
        return load_config(ROOT / "conf" / "demo.yaml", [*own, *keys], input_path=str(PLACE / "corpus"))

    def behind(self, name: str, stage: str) -> Path:
        """A copy of the workspace in which a stage never ran."""
        workspace = Path(shutil.copytree(PLACE / "control", PLACE / name))
        for table in STAGES[stage][0]:
            shutil.rmtree(workspace / "tables" / table)
            shutil.rmtree(workspace / "checkpoints" / table, ignore_errors=True)
        return workspace

    def launch(
        self, name: str, stage: str, *keys: str, kind: str = "", kill_at: str = "", action: str = ""
    ) -> subprocess.Popen[bytes]:
        """Begin the stage (or another action) in a process of its own with a fault; what it says goes to a file by its name."""
        fault = {"KIND": kind, "COLUMN": STAGES[stage][1], "MARK": str(PLACE / f"{name}.mark")}
        own = [f"spark.conf.spark.python.daemon.module={'faults.daemon' if kind else 'entropylong.worker_daemon'}"]
        own += [f"spark.conf.spark.executorEnv.FAULT_{k}={v}" for k, v in fault.items() if kind]
        command = [sys.executable, "-m", "faults.victim", self.config(name, *keys, *own).model_dump_json(), action or stage]
        command += [kill_at, STAGES[stage][0][-1]] if kill_at else []
        env = os.environ | {f"FAULT_{k}": v for k, v in fault.items()} | {"PYTHONPATH": str(ROOT)}
        with (PLACE / f"{name}.log").open("w") as said:
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)

    def suffer(self, name: str, stage: str, *keys: str, kind: str = "", kill_at: str = "", action: str = "") -> tuple[int, str]:
        """Run the stage in a process of its own with a fault; its exit code and the end of what it said."""
        with self.suffering:
            victim = self.launch(name, stage, *keys, kind=kind, kill_at=kill_at, action=action)
            deadline = time.monotonic() + SECONDS
            while victim.poll() is None and time.monotonic() < deadline:
                if kind == daemon.DRIVER and (PLACE / f"{name}.mark").exists():
                    time.sleep(0.5)
                    break
                time.sleep(0.2)
            if victim.poll() is None:
                os.killpg(victim.pid, signal.SIGKILL)
            return victim.wait(), said_by(name)

    def recovered(self, name: str) -> Runner:
        """The workspace after a run without a fault."""
        runner = Runner.open(self.config(name), self.spark)
        runner.run()
        return runner


def said_by(name: str) -> str:
    """The end of what a victim said."""
    return (PLACE / f"{name}.log").read_text()[-2000:]
