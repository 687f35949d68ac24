"""Grow one workspace to each size and measure each stage: `make rehearsal`. Writes runs/rehearsal/results.jsonl and growth.png.

python -m rehearsal [--sizes 100000,200000,400000,800000] [--commits 50] [--stages ingest,chunk,...] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rehearsal.cluster import cluster
from rehearsal.corpus import A_FILE, Generator
from rehearsal.growth import Line, plot, table
from rehearsal.meter import Cost, Meter

ROOT = Path(__file__).parents[1]
SIZES = (100_000, 200_000, 400_000, 800_000)
COMMITS, SMALL_COMMITS, SMALL = 50, 5, 2_000
ROOTS = 500
STAGES = ("ingest", "chunk", "embed", "index", "score", "anchors", "search", "pairs", "verify", "pack")


def main(arguments: Sequence[str] | None = None) -> list[Line]:
    """Run a rehearsal; give its lines, which are written as they come."""
    parser = argparse.ArgumentParser(prog="rehearsal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="documents, ascending")
    parser.add_argument("--commits", type=int, default=COMMITS, help="commits of ingest from one size to the next")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to run; each needs those before it")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "rehearsal")
    parser.add_argument("--lm", type=Path, help="a causal LM; a tiny random one by default")
    parser.add_argument("--encoder", type=Path, help="an encoder; a tiny random one by default")
    options = parser.parse_args(arguments)
    sizes, stages, out = [int(size) for size in options.sizes.split(",")], options.stages.split(","), options.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "events").mkdir(parents=True)
    lm, encoder = options.lm, options.encoder
    if lm is None or encoder is None:
        from tests import tiny

        lm, encoder = tiny.make_causal_lm(out / "lm"), tiny.make_encoder(out / "encoder")
    with cluster(out / "cluster", workers=2, memory="2g") as master:
        return _rehearse(master, sizes, options.commits, stages, out, [f"model.name={lm}", f"encoder.name={encoder}"])


def _rehearse(master: str, sizes: Sequence[int], commits: int, stages: Sequence[str], out: Path, models: list[str]) -> list[Line]:
    from entropylong.config import load_config
    from entropylong.pipeline.runner import Runner
    from entropylong.reporting.status import status_rows
    from entropylong.spark.session import _LOCAL_SETTINGS, session

    quick = {key: value for key, value in _LOCAL_SETTINGS.items() if key.startswith(("spark.sql.", "spark.databricks."))}
    conf = quick | {
        "spark.executor.cores": "1", "spark.executor.memory": "1g", "spark.executor.memoryOverhead": "900m",
        "spark.sql.shuffle.partitions": "4", "spark.eventLog.enabled": "true", "spark.eventLog.dir": str(out / "events"),
        "spark.eventLog.compress": "false", "spark.eventLog.rolling.enabled": "false", "spark.driver.memory": "2g",
        "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",
    }  # fmt: skip
    settings = [
        f"spark.master={master}", f"workspace={out / 'workspace'}", f"node_cache={out / 'node'}",
        "sources.corpus.kind=parquet", f"sources.corpus.path={out / 'corpus'}", "sources.corpus.role=both", *models,
        "sources.corpus.columns.doc_id=id", "model.document_start_id=0", "model.dtype=float32", f"roots.limit={ROOTS}",
        "roots.min_tokens=16", "roots.max_tokens=64", "contexts.max_tokens=32", "chunks.unit=document", "retrieval.top_k=4",
        "anchors.max_per_root=2", "controls.per_root=1", "pack.length=1024", "run.encode_batch=128",
        *(f"spark.conf.{key}={value}" for key, value in conf.items()),
    ]  # fmt: skip
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = session(load_config("base", settings))
    meter, generator, lines = Meter(spark, out / "events"), Generator(out / "corpus"), list[Line]()

    def run(label: str, names: Sequence[str], batch_documents: int) -> tuple[Cost, Runner]:
        batch = batch_documents // A_FILE * _file_bytes(out / "corpus")
        runner = Runner.open(load_config("base", [*settings, f"run.batch_bytes={batch}"]), spark)
        with meter.measure() as cost:
            if label == "status":
                status_rows(runner.state)
            else:
                runner.run(names)
        return cost, runner

    def step(label: str, names: Sequence[str], added: int, batch_documents: int, small: bool = False) -> None:
        store = Runner.open(load_config("base", settings), spark).state.store
        table_of = {"ingest": "documents", "chunk": "chunks", "embed": "chunk_vectors", "index": "index_cells",
                    "score": "scored_documents", "anchors": "anchors", "search": "candidates", "pairs": "pairs",
                    "verify": "gains", "pack": "sequences"}.get(label)  # fmt: skip
        before = store.version(table_of) if table_of and store.exists(table_of) else -1
        cost, runner = run(label, names, batch_documents)
        store = runner.state.store
        made, files = (store.version(table_of) - before, store.files(table_of)[0]) if table_of else (0, 0)
        line = Line(label, generator.documents, added, made, files, small, **asdict(cost))
        lines.append(line)
        with (out / "results.jsonl").open("a") as results:
            results.write(json.dumps(asdict(line)) + "\n")
        print(
            f"{label}{' (5 small commits)' if small else ''}, {line.n:,} documents: {line.cpu_s:.0f} CPU s, "
            f"{line.records_read:,} records read, {made} commits", flush=True,
        )  # fmt: skip

    # Of 2,000 documents; none in a small rehearsal, whose growth they would be.
    small = min(SMALL, sizes[0] // 50 // A_FILE * A_FILE)
    for size in sizes:
        added = size - generator.documents
        generator.grow(added)
        for name in stages:
            step(name, [name], added, max(A_FILE, added // commits))
        step("idle", stages, 0, A_FILE)
        step("status", stages, 0, A_FILE)
        generator.grow(SMALL_COMMITS * small)
        for name in ("ingest", "chunk") if small else ():
            step(name, [name], SMALL_COMMITS * small, small, small=True)
    spark.stop()
    plot(lines, out / "growth.png")
    text = table(lines, least=sizes[max(0, len(sizes) - 3)])
    (out / "growth.md").write_text(text + "\n")
    print(text)
    return lines


def _file_bytes(folder: Path) -> int:
    """Of a file of the corpus; they are alike."""
    sizes = [file.stat().st_size for file in folder.glob("*.parquet")]
    return max(sizes, default=1)


if __name__ == "__main__":
    main()
    sys.exit(0)
