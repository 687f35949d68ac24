"""What goes wrong, and what a rerun then leaves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pyspark.sql import Row

from entropylong.config import load_config
from entropylong.entropy.anchors import find_anchors
from entropylong.errors import IndexFileError
from entropylong.maintenance.check import check_workspace
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.pipeline.runner import Runner
from entropylong.pipeline.steps import STEPS
from entropylong.storage.schemas import OK
from faults import hook
from faults.compare import compare, tables_of
from faults.harness import CLUSTER, ROOT, STAGES, Harness

Outcome = tuple[bool, int, int, str]
# Whether a fault happened, a note of it, and the end of what its run said.
Happening = tuple[bool, str, str]
# (harness, stage, name of the copy) -> what happened.
Fault = Callable[[Harness, str, str], Happening]


def in_a_row(harness: Harness, stage: str, name: str, *faults: Fault) -> Outcome:
    """Faults of a stage that is behind, in one copy, each in the run after the one before; then a run without a fault."""
    harness.behind(name, stage)
    for fault in faults:
        happened, note, output = fault(harness, stage, name)
        if not happened:
            break
    return _outcome(harness, name, happened, note, output)


def strike(harness: Harness, stage: str, name: str, kind: str) -> Happening:
    """A fault in the first task that has rows to write."""
    harness.mark(name).unlink(missing_ok=True)
    code, output = harness.suffer(name, stage, *(CLUSTER if kind == hook.EXECUTOR else ()), kind=kind)
    happened = harness.mark(name).exists()
    died = {hook.DRIVER: code == -signal.SIGKILL, hook.TASK: code == 1}.get(kind, code in (0, 1))
    return happened and died, f"{kind}: exit {code}" + ("" if happened else ", no task came to it"), output


def lose_checkpoints(harness: Harness, stage: str, name: str) -> Happening:
    """All checkpoints are gone, some rows of the stage are not there yet: neither is anything doubled nor dropped."""
    code, output = harness.suffer(name, stage, kill_at="commit")
    shutil.rmtree(harness.place / name / "checkpoints")
    return code == 9, "checkpoints removed", output


def between_files_and_commit(harness: Harness, stage: str) -> Outcome:
    """The JVM is gone when data files are written and their commit is not; tried again where the commit was faster."""
    for attempt in range(4):
        name = f"{stage}-files-{attempt}"
        workspace = harness.behind(name, stage)
        code, output = harness.suffer(name, stage, kill_at="files")
        table = workspace / "tables" / STAGES[stage][0][-1]
        orphans = [f for f in table.rglob("*.parquet") if f.name not in _log(table)]
        if code == 9 and orphans:
            return _outcome(harness, name, True, f"{len(orphans)} files without a commit", output)
    return False, 0, 0, "the commit was always faster"


def _log(table: Path) -> str:
    return "".join(log.read_text() for log in (table / "_delta_log").glob("*.json"))


def between_commit_and_checkpoint(harness: Harness, stage: str) -> Outcome:
    """The JVM is gone right after a commit."""
    name = f"{stage}-commit"
    harness.behind(name, stage)
    code, output = harness.suffer(name, stage, kill_at="commit")
    return _outcome(harness, name, code == 9, f"exit {code}", output)


def killed_compaction(harness: Harness, stage: str) -> Outcome:
    """The JVM is gone when files were written anew and the commit that puts them in the old ones' place is not."""
    workspace = harness.copy("compact")
    code, output = harness.suffer("compact", stage, action="compact", kill_at="files")
    table = workspace / "tables" / STAGES[stage][0][-1]
    orphans = [f for f in table.rglob("*.parquet") if f.name not in _log(table)]
    return _outcome(harness, "compact", code == 9 and bool(orphans), f"{len(orphans)} files without a commit", output)


def two_machines(harness: Harness, stage: str) -> Outcome:
    """Two runs do the same stage at the same time on the same tables, each with a workspace of its own, so under no lock."""
    one = harness.behind("machine-1", stage)
    other = Path(shutil.copytree(one, harness.place / "machine-2", ignore=shutil.ignore_patterns("tables")))
    tables = f"tables={one / 'tables'}"
    with harness.suffering:
        # Slow, so that both are at work before one of them commits.
        both = [harness.launch(place.name, stage, tables, kind=hook.SLOW) for place in (one, other)]
        codes = [process.wait() for process in both]
    outputs = [harness.said_by(place.name) for place in (one, other)]
    refused = sum("a run on another machine commits to the same rows" in text for text in outputs)
    return _outcome(harness, "machine-1", refused == 1 and sorted(codes) == [0, 1], "one of them refused by name", "".join(outputs))


def truncated_index(harness: Harness, stage: str) -> Outcome:
    """A shard of the index is cut: a search refuses it by name, and with the folder removed it is built again."""
    workspace = harness.behind("index-cut", "search")
    (folder,) = (workspace / "index").iterdir()
    raw = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(raw[: len(raw) // 2])
    shutil.rmtree(Path(harness.config("index-cut").node_cache) / "index")
    named = False
    try:
        with harness.judging:
            harness.recovered("index-cut")
    except Exception as error:  # a worker's error comes as a table's, in whose line the index's own stands
        named = isinstance(error, IndexFileError) or "does not match its manifest" in str(error)
    shutil.rmtree(folder)
    return _outcome(harness, "index-cut", named, "refused by name", "")


def half_converted_model(harness: Harness, stage: str) -> Outcome:
    """The conversion of the real model is killed half-way; the next one ends with the same files as one without a kill."""
    spec = ModelSpec(load_config(ROOT / "conf" / "demo.yaml").model.name)
    caches = [harness.place / "converted", harness.place / "killed"]
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


def divergent_retry(harness: Harness, stage: str) -> Outcome:
    """A task is run twice and says something else the second time: what is downstream follows what was committed."""
    workspace = harness.behind("score-diverge", "score")
    shutil.rmtree(workspace / "tables" / "anchors")
    harness.suffer("score-diverge", "score", *CLUSTER, kind=hook.DIVERGE)
    with harness.judging:
        return _all_follow(harness, harness.recovered("score-diverge"))


def _all_follow(harness: Harness, runner: Runner) -> Outcome:
    rows, anchors = ({r.root_id: r for r in _ok_rows(runner, table)} for table in ("scored_documents", "anchors"))
    rule = runner.config.anchors
    wrong_roots = [
        root for root, row in anchors.items()
        if [a.position for a in row.anchors] != find_anchors(
            np.frombuffer(rows[root].entropy, "<f4"), alpha=rule.alpha, min_position=rule.min_position).positions.tolist()
    ]  # fmt: skip
    control = {root: row["entropy"] for (root,), row in harness.control["scored_documents"][0].items() if row["outcome"] == OK}
    changed = sum(rows[root].entropy != entropy for root, entropy in control.items())
    lost = len(control.keys() - rows.keys())
    sound = not any(check.wrong for check in check_workspace(runner.state))
    return bool(changed) and not wrong_roots and sound, lost, 0, f"{changed} roots differ, and all their anchors with them"


def _ok_rows(runner: Runner, table: str) -> list[Row]:
    return runner.state.ok_rows(table).collect()


def _outcome(harness: Harness, name: str, happened: bool, note: str, output: str) -> Outcome:
    if not happened:
        return False, 0, 0, f"the fault did not happen ({note}): {' '.join(output.split())[-200:]}"
    with harness.judging:
        return _judged(harness, name, note)


def _judged(harness: Harness, name: str, note: str) -> Outcome:
    runner = harness.recovered(name)
    runner.state.forget()  # judged as a later command would find it
    difference = compare(harness.control, tables_of(runner))
    checks = check_workspace(runner.state)
    failures = [check.name for check in checks if check.wrong]
    # The count that the check makes of each step is the one by which a run finds that it has nothing to do.
    unchecked = {f"{step.writes}: every key that went in came out" for step in STEPS} - {check.name for check in checks}
    note = (
        difference.first or (f"check: {failures[0]}" if failures else "") or ("a second rerun is not idle" if unchecked else note)
    )
    return difference.is_none and not failures and not unchecked, difference.lost, difference.doubled, note


Scenario = Callable[[Harness, str], Outcome]


def scenarios() -> list[tuple[str, str, Scenario]]:
    """(stage, fault, what to do)."""
    kinds = {hook.TASK: "task exception", hook.WORKER: "worker SIGKILL", hook.EXECUTOR: "executor kill",
             hook.DRIVER: "driver kill -9"}  # fmt: skip
    cells: list[tuple[str, str, Scenario]] = [
        (stage, fault, lambda harness, of, kind=kind: in_a_row(harness, of, f"{of}-{kind}", partial(strike, kind=kind)))
        for stage in STAGES
        for kind, fault in kinds.items()
    ]
    return [
        *cells,
        ("score", "between files and commit", between_files_and_commit),
        ("verify", "between files and commit", between_files_and_commit),
        ("score", "between commit and checkpoint", between_commit_and_checkpoint),
        ("pack", "after the commit", between_commit_and_checkpoint),
        *(
            (of, "lost checkpoints", lambda harness, of: in_a_row(harness, of, f"{of}-checkpoint", lose_checkpoints))
            for of in ("score", "verify")
        ),
        ("score", "killed in compaction", killed_compaction),
        ("score", "two machines at once", two_machines),
        ("search", "index file cut", truncated_index),
        ("score", "model half converted", half_converted_model),
        ("score", "retry diverges", divergent_retry),
    ]
