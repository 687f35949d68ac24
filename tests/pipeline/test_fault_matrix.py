"""One fault of each kind of the matrix (`make faults` has all), by its own harness and scenarios, over the shared workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entropylong.config import Config
from faults.__main__ import suffered
from faults.harness import Harness
from faults.scenarios import scenarios
from tests.conftest import MakeConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.e2e

# The cheapest stage of each kind; pack gives whole tables, score a stream of rows.
KINDS = [
    ("pack", "task exception"),
    ("score", "worker SIGKILL"),
    ("pack", "executor kill"),
    ("pack", "driver kill -9"),
    ("score", "lost checkpoints"),
]


@pytest.fixture(scope="module")
def harness(
    spark: SparkSession, finished: Path, make_config: MakeConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Harness:
    def configure(workspace: Path, *keys: str) -> Config:
        own = ["run.files_per_batch=1", "run.roots_per_unit=6", "quarantine.max_rate=0"]
        return make_config(workspace, corpus, *own, *keys)

    return Harness(tmp_path_factory.mktemp("faults"), finished, configure, spark)


@pytest.mark.parametrize(("stage", "fault"), KINDS)
def test_nothing_is_lost_or_doubled(stage: str, fault: str, harness: Harness) -> None:
    (scenario,) = [do for of, kind, do in scenarios() if (of, kind) == (stage, fault)]
    result = suffered(harness, stage, fault, scenario)
    assert result.ok and not result.rows_lost and not result.rows_doubled, result.note
