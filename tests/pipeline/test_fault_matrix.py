"""One fault of each kind of the matrix (`make faults` has all), by its own harness and scenarios, over the shared workspace."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entropylong.config import Config
from faults import hook
from faults.__main__ import suffered
from faults.harness import Harness
from faults.scenarios import Fault, in_a_row, lose_checkpoints, strike
from tests.conftest import MakeConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.e2e

# The cheapest stage of each kind; pack gives whole tables, score a stream of rows.
IN_A_ROW: dict[str, tuple[Fault, ...]] = {
    "pack": tuple(partial(strike, kind=kind) for kind in (hook.TASK, hook.DRIVER, hook.EXECUTOR)),
    "score": (lose_checkpoints, partial(strike, kind=hook.WORKER)),
}


@pytest.fixture(scope="module")
def harness(
    spark: SparkSession, finished: Path, make_config: MakeConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Harness:
    def configure(workspace: Path, *keys: str) -> Config:
        own = ["run.batch_bytes=1", "run.roots_per_unit=6", "quarantine.max_rate=0"]
        return make_config(workspace, corpus, *own, *keys)

    return Harness(tmp_path_factory.mktemp("faults"), finished, configure, spark)


@pytest.mark.parametrize("stage", IN_A_ROW)
def test_nothing_is_lost_or_doubled(stage: str, harness: Harness) -> None:
    """One after the other, each on what the one before has left: a fault that did not happen, or struck another way, fails."""
    faults = IN_A_ROW[stage]
    result = suffered(harness, stage, "in a row", lambda harness, stage: in_a_row(harness, stage, stage, *faults))
    assert result.ok and not result.rows_lost and not result.rows_doubled, result.note
