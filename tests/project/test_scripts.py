"""What no test runs whole, so that it cannot rot: every script loads, each benchmark of `make bench` runs at its smallest size."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import timing
from benchmarks.__main__ import SCRIPTS, claims
from benchmarks.plots import Line, draw, read_results

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
FILES = [
    path.relative_to(ROOT) for name in ("benchmarks", "faults", "rehearsal", "scripts") for path in sorted((ROOT / name).iterdir())
]


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "__pycache__"], ids=str)
def test_every_script_loads(file: Path) -> None:
    """Those that need a GPU are only loaded: `benchmarks.gpu` and `benchmarks.claim`."""
    if file.suffix == ".sh":
        subprocess.run(["sh", "-n", ROOT / file], check=True)
        return
    assert file.suffix == ".py", f"{file}: a kind of script that no test loads"
    importlib.import_module(".".join(file.with_suffix("").parts))


@pytest.fixture(scope="module")
def results(
    spark: SparkSession, tiny_lm: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Line]]:
    """What all benchmarks of `make bench`, and the one of retrieval, print at their smallest size with the tiny models."""
    environment = dict(os.environ)
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "RESULTS", folder)
        for script in (*SCRIPTS, "retrieval"):
            importlib.import_module(f"benchmarks.{script}").main(["--small", f"--lm={tiny_lm}", f"--encoder={tiny_encoder}"])
    yield read_results(folder / "results.jsonl")
    os.environ.clear()
    os.environ.update(environment)


def test_benchmarks_run_and_say_what_the_claims_and_plots_read(results: list[Line], tmp_path: Path) -> None:
    assert all(claim.value for claim in claims(results))
    assert len(draw(results, tmp_path)) == 3
    assert {"index_build", "search_partitioned", "search_broadcast"} <= {line["name"] for line in results}
    assert all(line["same_hits"] for line in results if line["name"] == "search_partitioned")
    assert all(line["same_sequences"] for line in results if line["name"] == "packing")
