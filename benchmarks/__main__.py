"""All benchmarks, one after the other: `make bench`. Writes runs/bench/results.jsonl and the plots, prints the ratios."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.common import ROOT
from benchmarks.plots import Line, draw, read_results
from benchmarks.timing import RESULTS

SCRIPTS = ("scoring", "verification", "embedding", "screens", "packing", "training", "spark")


@dataclass(frozen=True)
class Claim:
    """A figure, what it should reach, and whether it does."""

    name: str
    value: str
    goal: str
    reached: bool


def claims(results: list[Line]) -> list[Claim]:
    """What the results say about each goal."""
    by_name = {line["name"]: line for line in results}
    score, every, some = by_name["scoring"], by_name["verification_all"], by_name["verification_retrieved"]
    share, sharing = by_name["arrow_jvm_share"]["ours"], some["m"]
    goals = [
        _ratio("scoring", score["ratio"], 3.0),
        Claim("  largest difference of H, nats", f"{score['largest_dH']:.1e}", "<= 1e-3", score["largest_dH"] <= 1e-3),
        _ratio(f"verification, scope retrieved (m = {sharing:.2f})", some["ratio"], 1.5 * sharing),
        _ratio(f"verification, scope all (m = {every['m']:.2f})", every["ratio"], 8.0),
        Claim(f"  keep-sets agree, {every['cells']} cells", f"{every['agreement']:.2%}", ">= 99.9%", every["agreement"] >= 0.999),
        Claim("embedding", f"{by_name['embedding']['ratio']:.2f} x", "", True),
    ]
    for name in ("scoring", "verification", "embedding"):
        times = {line["size"]: line["ours"] for line in results if line["name"] == f"{name}_growth"}
        growth = times[8] / times[1]
        goals.append(Claim(f"growth of {name}, 8 x the input", f"{growth:.2f} x", "<= 8.5 x", growth <= 8.5))
    screen = by_name["screen_left_window"]
    at = next(point for point in screen["curve"] if point["min_gain"] == screen["min_gain"])
    packing = by_name["packing"]
    beyond = packing["bytes_a_token_ours"]
    recall = f"{at['recall_specific']:.0%} of {screen['positives_specific']} (at least {at['recall_low_specific']:.0%})"
    return [
        *goals,
        Claim("left-window screen against exact", f"{screen['ratio']:.2f} x", "", True),
        Claim("  recall of dependencies", recall, ">= 95%", at["recall_specific"] >= 0.95),
        _ratio("packing, CPU seconds a token", packing["ratio"], 10.0),
        Claim("  memory beyond its input, bytes a token", f"{beyond:.1f}", "<= 8", beyond <= 8),
        Claim("Arrow and JVM, share of slot time", f"{share:.1%}", "<= 5%", share <= 0.05),
        _ratio("feed of 131,072 tokens a row, against a step's need", by_name["feed"]["ratio"], 10.0),
        Claim(
            "waiting for data, share of a step", f"{by_name['data_wait']['ours']:.2%}", "< 1%", by_name["data_wait"]["ours"] < 0.01
        ),
        _ratio("memory of the loss, in blocks", by_name["loss_memory"]["ratio"], 2.0),
        Claim("time of the loss, in blocks", f"{by_name['loss']['ratio']:.2f} x", "", True),
    ]


def _ratio(name: str, ratio: float, goal: float) -> Claim:
    return Claim(name, f"{ratio:.2f} x", f">= {goal:.2f} x", ratio >= goal)


def main() -> None:
    """Run all, draw, tell."""
    results = RESULTS / "results.jsonl"
    results.unlink(missing_ok=True)
    start = time.monotonic()
    for number, script in enumerate(SCRIPTS, start=1):
        print(f"{script} ({number} of {len(SCRIPTS)}, {(time.monotonic() - start) / 60:.0f} minutes so far)", flush=True)
        # A process each: none inherits the memory, the threads or the compiled state of another.
        subprocess.run([sys.executable, "-m", f"benchmarks.{script}"], cwd=ROOT, check=True)
    lines = read_results(results)
    plots = draw(lines, RESULTS)
    table = Table(title=f"Medians of pairs in one run, on {lines[0]['machine']}", title_justify="left")
    for column in ("claim", "measured", "goal", ""):
        table.add_column(column, justify="right" if column in ("measured", "goal") else "left")
    for claim in claims(lines):
        table.add_row(claim.name, claim.value, claim.goal, ("reached" if claim.reached else "MISSED") if claim.goal else "")
    Console(width=100).print(table)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes. Results: {results.relative_to(ROOT)}")
    print("Plots: " + ", ".join(str(path.relative_to(ROOT)) for path in plots))


if __name__ == "__main__":
    main()
