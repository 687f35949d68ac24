"""What Spark costs: the share of the slots' time outside of our own code (Arrow, JVM, Delta, scheduling, idle slots) in `score`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.timing import record
from entropylong.config import load_config
from entropylong.pipeline.runner import Runner
from entropylong.spark.session import session


def main() -> None:
    """One real run of `ingest` and `score` over a few hundred real documents, as the demo has them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roots", type=int, default=150)
    roots = parser.parse_args().roots
    folder = Path(tempfile.mkdtemp(prefix="entropylong-bench-"))
    try:
        keys = [f"workspace={folder / 'workspace'}", f"roots.limit={roots}", "roots.max_tokens=1024"]
        config = load_config(ROOT / "conf" / "demo.yaml", keys)
        spark = session(config)
        runner = Runner.open(config, spark)
        steps = {done.step.name: done for done in runner.run(["ingest", "score"]).steps}
        scored = runner.state.ok_rows("scored_documents")
        tokens = sum(row.n_tokens for row in scored.select("n_tokens").collect())
        done = steps["score"]
        share, busy = done.usage["arrow_jvm_share"], done.usage["accelerator_busy"]
        record("arrow_jvm_share", [share], [], unit="share of slot time", tokens=tokens, seconds=round(done.seconds, 1), busy=busy)
        spark.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
