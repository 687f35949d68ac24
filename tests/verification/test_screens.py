"""The registry of screens: the config names all of them, and one more file is one more screen everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import numpy as np
import pytest
from pyspark.sql import SparkSession

from entropylong.config import Config, load_config
from entropylong.config.schema import ScreenName
from entropylong.core.context import StageContext
from entropylong.models.causal_lm import CausalLM
from entropylong.planning.estimate import make_plan
from entropylong.reporting import wording
from entropylong.storage.schemas import GAINS
from entropylong.verification import screens
from entropylong.verification.calibration import screen_metrics
from entropylong.verification.planning import Anchor
from entropylong.verification.screens import SCREENS
from entropylong.verification.screens.base import ScreenRecord
from entropylong.verification.screens.left_window import LeftWindow
from entropylong.verification.selection import SCREENED_OUT, RootWork, Selection, measure_selected
from entropylong.verification.stage import selection_of
from entropylong.verification.waves import Visit
from tests import tiny
from tests.planning.test_plan import STATED, no_spark
from tests.verification.variants import comment_above, one_more, records_in

BY_LENGTH = '''
"""A screen that runs no model: what is longer than the window is taken to help."""
from entropylong.verification.screens.base import ScreenReading, ScreenRecord


class ByLength(ScreenReading):
    needs_model = False

    def about(self, screen):
        return f"the length of {screen.window} tokens"

    def with_chunk(self, screen, model, candidates, separator_ids, batch_tokens):
        return [c.entropy * (0.0 if len(c.chunk_ids) > screen.window else 1.0) for c in candidates]

    def tokens(self, screen, front, end, span, least):
        raise AssertionError("it forwards nothing")


RECORD = ScreenRecord("by_length", ByLength(), limit="Short candidates were not measured.")
'''


@pytest.fixture
def by_length(tmp_path: Path) -> Iterator[Config]:
    """A config that has the screen `by_length` in force, which exists as a file alone."""
    keys = ["verify.screen.window=20", "verify.screen.min_gain=0.5", "verify.screen.sample=0.0"]
    config = load_config("base", [*STATED, *keys])
    screen = config.verify.screen.model_copy(update={"kind": "by_length"})
    with one_more(screens, SCREENS, "by_length", ScreenRecord, BY_LENGTH, tmp_path):
        yield config.model_copy(update={"verify": config.verify.model_copy(update={"screen": screen})})


def selection(config: Config) -> Selection:
    chosen = selection_of(cast(StageContext, SimpleNamespace(config=config, fingerprints={"pairs": "f" * 12})))
    assert chosen is not None
    return chosen


def test_the_config_and_its_comment_name_every_screen() -> None:
    assert set(SCREENS) == set(get_args(ScreenName)) == set(records_in(screens))
    assert all(record.name == name for name, record in SCREENS.items())
    # The first `kind` of the file is that of `verify.screen`: sources have theirs in files of their own.
    assert [name for name in SCREENS if name not in comment_above("kind")] == []


def test_another_screen_is_one_file(by_length: Config, tiny_lm: Path) -> None:
    model = CausalLM(tiny_lm, document_start_id=0, device="cpu")
    text = np.array(model.encode(3 * tiny.TEXT), np.int32)
    anchors = [Anchor(30, 4.0, 6.0, 1, 0.5)]
    visits = [Visit(place, "candidate", 30, anchors, [30]) for place in range(2)]
    control = Visit(2, "random", 10, [Anchor(30, 4.0, 6.0)], [30])
    work = RootWork("root", text[:60], [text[60:70], text[60:90], text[90:100]], [*visits, control])
    outcomes = {
        outcome.place: outcome
        for outcome in measure_selected(model, [work], selection(by_length), separator_ids=[], batch_tokens=500)
    }
    assert outcomes[0].code == SCREENED_OUT and outcomes[0].screen_gain == {30: 0.0} and outcomes[0].reading is None
    assert outcomes[1].reading is not None and outcomes[1].screen_gain == {30: 1.0}
    assert outcomes[2].reading is not None and outcomes[2].screen_gain == {}, "a control is always measured"


def test_its_words_and_cost_are_those_of_its_file(by_length: Config) -> None:
    assert wording.limits(by_length)[-1] == "Short candidates were not measured."
    ways = {way.name: way for way in make_plan(by_length, no_spark).ways}
    exact = {way.name: way for way in make_plan(load_config("base", STATED), no_spark).ways}["exact"]
    assert [name for name, way in ways.items() if way.configured] == ["screened"]
    assert ways["screened"].about.startswith("the length of 20 tokens looks at every pair")
    assert ways["screened"].work.passes < exact.work.passes, "it costs no pass but those that it proposes"


def test_its_recall_and_saving_are_counted(by_length: Config, spark: SparkSession) -> None:
    screen = selection(by_length).screen
    assert screen is not None
    rows = [
        {"pair_id": n, "root_id": "root", "chunk_id": n, "kind": "candidate", "n_context_tokens": 60, "outcome": outcome,
         "readings": [{"position": 39, "screen_gain": gain}]}
        for n, (gain, outcome) in enumerate([(1.0, "ok"), (0.0, "skipped"), (0.0, "skipped"), (0.0, "skipped")])
    ]  # fmt: skip
    gains = spark.createDataFrame(rows, GAINS.struct)
    judged = spark.createDataFrame([("root", 0, 39, True)], "root_id STRING, chunk_id BIGINT, position INT, accepted BOOLEAN")
    assert screen_metrics(gains, judged, screen) == {"screen_positives": 0, "screen_saving": 0.75}


def test_a_left_window_costs_what_it_reads() -> None:
    """Of a plan and of a run the same: the tokens of the chunk and of the root from the window's first to the last position."""
    screen = selection(load_config("base", ["verify.screen.kind=left_window", "verify.screen.window=50"])).screen
    assert screen is not None
    for first, last in [(10, 40), (100, 100), (60, 300)]:
        read = last + 1 - max(0, first - screen.window)
        assert LeftWindow().tokens(screen, 70, last + 1, last + 1 - first, min) == 70 + read
