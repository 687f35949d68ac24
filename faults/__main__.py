"""All faults, one after the other: `make faults`. Writes runs/faults/results.jsonl and prints the matrix."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pyspark.sql import Row
from rich.console import Console
from rich.table import Table

from entropylong.check import check_workspace
from entropylong.config import Config
from entropylong.config_files import load_config
from entropylong.entropy.anchors import find_anchors
from entropylong.errors import IndexFileError
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.runner import Runner
from entropylong.spark import session
from faults import daemon
from faults.compare import compare
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


@dataclass(frozen=True)
class Result:
    """One cell of the matrix: `ok` if the fault happened and, after a rerun, nothing differs from a run without it."""

    stage: str
    fault: str
    ok: bool
    rows_lost: int
    rows_doubled: int
    note: str
    seconds: float


class Harness:
    """The workspace without a fault, copies of it to suffer, and the session that compares them."""

    def __init__(self) -> None:
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        self.models = (tiny.make_causal_lm(PLACE / "models" / "lm"), tiny.make_encoder(PLACE / "models" / "encoder"))
        rows = tiny.documents(12)
        for part in range(3):
            tiny.write_jsonl(PLACE / "corpus" / f"part-{part}.jsonl", rows[4 * part : 4 * part + 4])
        self.spark = session(self.config("control"))
        self.control = Runner(self.config("control"), self.spark)
        self.control.run(announce=lambda line: None)

    def config(self, workspace: str, *keys: str) -> Config:
        """Of a workspace: small batches, so that each stage makes several commits."""
        lm, encoder = self.models
        own = [
            f"workspace={PLACE / workspace}", f"node_cache={PLACE / 'node_cache'}", f"model.name={lm}", f"encoder.name={encoder}",
            "roots.limit=null", "roots.min_tokens=64", "roots.max_tokens=300", "chunks.target_chars=400", "chunks.max_chars=800",
            "contexts.max_tokens=128", "pack.length=1024", "accept.rule=paper", "accept.epsilon=0.02", "retrieval.top_k=3",
            "accept.max_copy_tokens=null", "run.files_per_batch=1", "run.roots_per_unit=6", "quarantine.max_rate=0",
        ]  # fmt: skip
        return load_config(ROOT / "conf" / "demo.yaml", [*own, *keys], input_path=str(PLACE / "corpus"))

    def behind(self, name: str, stage: str) -> Path:
        """A copy of the workspace in which a stage never ran."""
        workspace = Path(shutil.copytree(PLACE / "control", PLACE / name))
        for table in STAGES[stage][0]:
            shutil.rmtree(workspace / "tables" / table)
            shutil.rmtree(workspace / "checkpoints" / table, ignore_errors=True)
        return workspace

    def suffer(self, name: str, stage: str, *keys: str, kind: str = "", kill_at: str = "") -> tuple[int, str]:
        """Run the stage in a process of its own with a fault; its exit code and the end of what it said."""
        mark = PLACE / f"{name}.mark"
        column = STAGES[stage][1]
        own = [f"spark.conf.spark.python.daemon.module={'faults.daemon' if kind else 'entropylong.worker_daemon'}"]
        if kind:
            own += [f"spark.conf.spark.executorEnv.FAULT_{k}={v}" for k, v in (("KIND", kind), ("COLUMN", column), ("MARK", mark))]
        config = self.config(name, *keys, *own)
        command = [sys.executable, "-m", "faults.victim", config.model_dump_json(), stage]
        command += [kill_at, STAGES[stage][0][-1]] if kill_at else []
        said = (PLACE / f"{name}.log").open("w+")
        fault = {"FAULT_KIND": kind, "FAULT_COLUMN": column, "FAULT_MARK": str(mark), "PYTHONPATH": str(ROOT)}
        victim = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | fault, stdout=said, stderr=said, start_new_session=True
        )  # fmt: skip
        deadline = time.monotonic() + SECONDS
        while victim.poll() is None and time.monotonic() < deadline:
            if kind == daemon.DRIVER and mark.exists():
                time.sleep(0.5)
                break
            time.sleep(0.2)
        if victim.poll() is None:
            os.killpg(victim.pid, signal.SIGKILL)
        code = victim.wait()
        said.seek(0)
        return code, said.read()[-2000:]

    def recovered(self, name: str) -> Runner:
        """The workspace after a run without a fault."""
        runner = Runner(self.config(name), self.spark)
        runner.run(announce=lambda line: None)
        return runner


def matrix_cell(harness: Harness, stage: str, kind: str) -> tuple[bool, int, int, str]:
    """A fault in the first task of a stage that has rows to write."""
    name = f"{stage}-{kind}"
    harness.behind(name, stage)
    code, said = harness.suffer(name, stage, *(CLUSTER if kind == daemon.EXECUTOR else ()), kind=kind)
    happened = (PLACE / f"{name}.mark").exists()
    died = {daemon.DRIVER: code == -signal.SIGKILL, daemon.TASK: code == 1}.get(kind, code in (0, 1))
    return _outcome(harness, name, happened and died, f"exit {code}", said)


def between_files_and_commit(harness: Harness, stage: str) -> tuple[bool, int, int, str]:
    """The JVM is gone when data files are written and their commit is not; tried again where the commit was faster."""
    for attempt in range(4):
        name = f"{stage}-files-{attempt}"
        workspace = harness.behind(name, stage)
        code, said = harness.suffer(name, stage, kill_at="files")
        table = workspace / "tables" / STAGES[stage][0][-1]
        listed = "".join(log.read_text() for log in (table / "_delta_log").glob("*.json"))
        orphans = [f for f in table.rglob("*.parquet") if f.name not in listed]
        if code == 9 and orphans:
            return _outcome(harness, name, True, f"{len(orphans)} files without a commit", said)
    return False, 0, 0, "the commit was always faster"


def between_commit_and_checkpoint(harness: Harness, stage: str) -> tuple[bool, int, int, str]:
    """The JVM is gone right after a commit."""
    name = f"{stage}-commit"
    harness.behind(name, stage)
    code, said = harness.suffer(name, stage, kill_at="commit")
    return _outcome(harness, name, code == 9, f"exit {code}", said)


def lost_checkpoints(harness: Harness, stage: str) -> tuple[bool, int, int, str]:
    """All checkpoints are gone, some rows of the stage are not there yet: neither is anything doubled nor dropped."""
    name = f"{stage}-checkpoint"
    workspace = harness.behind(name, stage)
    code, said = harness.suffer(name, stage, kill_at="commit")
    shutil.rmtree(workspace / "checkpoints")
    return _outcome(harness, name, code == 9, "checkpoints removed", said)


def truncated_index(harness: Harness, stage: str) -> tuple[bool, int, int, str]:
    """A shard of the index is cut: a search refuses it by name, and with the folder removed it is built again."""
    workspace = harness.behind("index-cut", "search")
    (folder,) = (workspace / "index").iterdir()
    raw = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(raw[: len(raw) // 2])
    shutil.rmtree(PLACE / "node_cache" / "index")
    named = False
    try:
        harness.recovered("index-cut")
    except Exception as error:  # a worker's error comes as a table's, in whose line the index's own stands
        named = isinstance(error, IndexFileError) or "does not match its manifest" in str(error)
    shutil.rmtree(folder)
    return _outcome(harness, "index-cut", named, "refused by name", "")


def half_converted_model(harness: Harness, stage: str) -> tuple[bool, int, int, str]:
    """The conversion of the real model is killed half-way; the next one ends with the same files as one without a kill."""
    spec = ModelSpec(load_config(ROOT / "conf" / "demo.yaml").model.name)
    caches = [PLACE / "converted", PLACE / "killed"]
    code = (
        "import sys, pathlib; from entropylong.models.prepare import ModelSpec, prepare\n"
        "prepare(ModelSpec(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    )
    victim = subprocess.Popen([sys.executable, "-c", code, spec.name, str(caches[1])], cwd=ROOT, stderr=subprocess.DEVNULL)
    while victim.poll() is None and not any(f.stat().st_size > 10**6 for f in caches[1].rglob("*.building/*")):
        time.sleep(0.01)
    happened = victim.poll() is None
    victim.kill()
    victim.wait()
    prints = [prepare(spec, cache).fingerprint for cache in caches]
    return happened and prints[0] == prints[1], 0, 0, "killed while weights were written"


def divergent_retry(harness: Harness, stage: str) -> tuple[bool, int, int, str]:
    """A task is run twice and says something else the second time: what is downstream follows what was committed."""
    workspace = harness.behind("score-diverge", "score")
    shutil.rmtree(workspace / "tables" / "anchors")
    harness.suffer("score-diverge", "score", *CLUSTER, kind=daemon.DIVERGE)
    runner = harness.recovered("score-diverge")
    rows, found = ({r.root_id: r for r in _ok_rows(runner, table)} for table in ("scored_documents", "anchors"))
    rule = runner.config.anchors
    wrong = [
        root for root, row in found.items()
        if [a.position for a in row.anchors] != find_anchors(
            np.frombuffer(rows[root].entropy, "<f4"), alpha=rule.alpha, min_position=rule.min_position).positions.tolist()
    ]  # fmt: skip
    control = {r.root_id: r.entropy for r in _ok_rows(harness.control, "scored_documents")}
    changed = sum(rows[root].entropy != entropy for root, entropy in control.items())
    lost = len(control.keys() - rows.keys())
    sound = not any(check.wrong for check in check_workspace(runner))
    return bool(changed) and not wrong and sound, lost, 0, f"{changed} roots differ, and all their anchors with them"


def _ok_rows(runner: Runner, table: str) -> list[Row]:
    return runner.store.read_ok(table, runner.fingerprint(table) or "-").collect()


def _outcome(harness: Harness, name: str, happened: bool, note: str, said: str) -> tuple[bool, int, int, str]:
    if not happened:
        return False, 0, 0, f"the fault did not happen ({note}): {' '.join(said.split())[-200:]}"
    runner = harness.recovered(name)
    found = compare(harness.control, runner)
    wrong = [check.name for check in check_workspace(runner) if check.wrong]
    again = runner.run(announce=lambda line: None).steps
    note = found.first or (f"check: {wrong[0]}" if wrong else "") or ("a second rerun was not idle" if again else note)
    return found.is_none and not wrong and not again, found.lost, found.doubled, note


Scenario = Callable[[Harness, str], tuple[bool, int, int, str]]


def scenarios() -> list[tuple[str, str, Scenario]]:
    """(stage, fault, what to do)."""
    kinds = {daemon.TASK: "task exception", daemon.WORKER: "worker SIGKILL", daemon.EXECUTOR: "executor kill",
             daemon.DRIVER: "driver kill -9"}  # fmt: skip
    cells: list[tuple[str, str, Scenario]] = [
        (stage, said, lambda harness, of, kind=kind: matrix_cell(harness, of, kind))
        for stage in STAGES
        for kind, said in kinds.items()
    ]
    return [
        *cells,
        ("score", "between files and commit", between_files_and_commit),
        ("verify", "between files and commit", between_files_and_commit),
        ("score", "between commit and checkpoint", between_commit_and_checkpoint),
        ("pack", "after the commit", between_commit_and_checkpoint),
        ("score", "lost checkpoints", lost_checkpoints),
        ("verify", "lost checkpoints", lost_checkpoints),
        ("search", "index file cut", truncated_index),
        ("score", "model half converted", half_converted_model),
        ("score", "retry diverges", divergent_retry),
    ]


def main() -> None:
    """Run all (or those whose name holds the first argument), print the matrix, fail if a cell is not ok."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    start = time.monotonic()
    harness = Harness()
    print(f"control: a run without a fault, {time.monotonic() - start:.0f} s", flush=True)
    results = []
    out = PLACE / "results.jsonl"
    for stage, fault, scenario in scenarios():
        if wanted not in f"{stage} {fault}":
            continue
        began = time.monotonic()
        try:
            ok, lost, doubled, note = scenario(harness, stage)
        except Exception as error:  # a rerun that fails is a result
            ok, lost, doubled, note = False, 0, 0, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        results.append(Result(stage, fault, ok, lost, doubled, note, round(time.monotonic() - began, 1)))
        with out.open("a") as lines:
            lines.write(json.dumps(asdict(results[-1])) + "\n")
        print(f"{stage}, {fault}: {'ok' if ok else 'FAILED'}, {note} ({results[-1].seconds:.0f} s)", flush=True)
    harness.spark.stop()
    table = Table(title=f"{len(results)} faults, {(time.monotonic() - start) / 60:.0f} minutes", title_justify="left")
    for column in ("stage", "fault", "result", "lost", "doubled", "seen"):
        table.add_column(column, justify="right" if column in ("lost", "doubled") else "left")
    for r in results:
        table.add_row(r.stage, r.fault, "ok" if r.ok else "FAILED", str(r.rows_lost), str(r.rows_doubled), r.note)
    Console(width=110).print(table)
    print(f"Results: {out.relative_to(ROOT)}")
    if not results or not all(r.ok for r in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
