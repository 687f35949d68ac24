"""What Spark costs: the share of the slots' time outside of our own code (Arrow, JVM, Delta, scheduling, idle slots) in `score`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ROOT, argument_parser, spark_for
from benchmarks.timing import record
from entropylong.config import load_config
from entropylong.pipeline.runner import Runner


def main(arguments: Sequence[str] | None = None) -> None:
    """One real run of `ingest` and `score` over a few hundred real documents, as the demo has them."""
    parser = argument_parser(__doc__)
    parser.add_argument("--roots", type=int)
    options = parser.parse_args(arguments)
    roots, longest = options.roots or (2 if options.small else 150), 256 if options.small else 1024
    folder = Path(tempfile.mkdtemp(prefix="entropylong-bench-"))
    try:
        keys = [f"workspace={folder / 'workspace'}", f"roots.limit={roots}", f"roots.max_tokens={longest}"]
        keys += [f"model.name={options.lm}", f"encoder.name={options.encoder}"]
        config = load_config(ROOT / "conf" / "demo.yaml", keys)
        with spark_for(config) as spark:
            runner = Runner.open(config, spark)
            steps = {done.step.name: done for done in runner.run(["ingest", "score"]).steps}
            scored = runner.state.ok_rows("scored_documents")
            tokens = sum(row.n_tokens for row in scored.select("n_tokens").collect())
            done = steps["score"]
            share, busy = done.usage["arrow_jvm_share"], done.usage["accelerator_busy"]
            record(
                "arrow_jvm_share", [share], [], unit="share of slot time", tokens=tokens, seconds=round(done.seconds, 1), busy=busy
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
