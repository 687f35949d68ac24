"""All faults, one after the other: `make faults`. Writes runs/faults/results.jsonl and prints the matrix."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from faults.harness import ROOT, Harness, make_harness
from faults.scenarios import Scenario, scenarios


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


def suffered(harness: Harness, stage: str, fault: str, scenario: Scenario) -> Result:
    """One cell of the matrix."""
    began = time.monotonic()
    try:
        ok, lost, doubled, note = scenario(harness, stage)
    except Exception as error:  # a rerun that fails is a result
        ok, lost, doubled, note = False, 0, 0, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    result = Result(stage, fault, ok, lost, doubled, note, round(time.monotonic() - began, 1))
    print(f"{stage}, {fault}: {'ok' if ok else 'FAILED'}, {note} ({result.seconds:.0f} s)", flush=True)
    return result


def main() -> None:
    """Run all (or those whose name holds one of the arguments), print the matrix, fail if a cell is not ok."""
    words = sys.argv[1:] or [""]
    began = time.monotonic()
    harness = make_harness(ROOT / "runs" / "faults")
    print(f"control: a run without a fault, {time.monotonic() - began:.0f} s", flush=True)
    out = harness.place / "results.jsonl"
    chosen = [one for one in scenarios() if any(word in f"{one[0]} {one[1]}" for word in words)]
    results = []
    # Each as soon as it is known: whoever stops it after twenty minutes has what these minutes showed.
    with out.open("w") as lines, ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda one: suffered(harness, *one), chosen):
            results.append(result)
            lines.write(json.dumps(asdict(result)) + "\n")
            lines.flush()
    harness.spark.stop()
    table = Table(title=f"{len(results)} faults, {(time.monotonic() - began) / 60:.0f} minutes", title_justify="left")
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
