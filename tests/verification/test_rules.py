"""The registry of acceptance rules: the config names all of them, and one more file is one more rule everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from entropylong.config import Config, load_config
from entropylong.config.schema import RuleName
from entropylong.notebook.charts import comparing, dependencies
from entropylong.pipeline.metrics.compute import _rates
from entropylong.pipeline.metrics.names import lines
from entropylong.pipeline.state import PipelineState
from entropylong.reporting import wording
from entropylong.reporting.inspect import unmet
from entropylong.reporting.report.page import verdict
from entropylong.verification import rules
from entropylong.verification.readings import judged_schema
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind, Readings, judge, verdict_columns
from entropylong.verification.rules.base import AcceptanceRule, Rule
from tests.verification.variants import comment_above, one_more, records_in

LIKELIER = '''
"""A rule with a condition of its own, before one that other rules have."""
from entropylong.verification.rules.base import GAIN, AcceptanceRule, Condition

CERTAIN = Condition(
    name="certain",
    is_met=lambda rule, measures: measures.nll_drop > 2 * rule.min_nll_drop,
    wording=lambda rule: f"the true token is likelier by {2 * rule.min_nll_drop:g} nats",
    column="NLL drop",
    refusal="not certain",
    key="min_nll_drop",
    tried=(0.0, 1.0),
)
RECORD = AcceptanceRule("likelier", (CERTAIN, GAIN), title="likelier rule", about="a test's: the true token first")
'''


@pytest.fixture
def likelier(tmp_path: Path) -> Iterator[Config]:
    """A config that has the rule `likelier` in force, which exists as a file alone."""
    config = load_config("base", ["accept.epsilon=0.4", "accept.min_nll_drop=0.5"])
    with one_more(rules, RULES, "likelier", AcceptanceRule, LIKELIER, tmp_path):
        yield config.model_copy(update={"accept": config.accept.model_copy(update={"rule": "likelier"})})


def some_readings() -> pd.DataFrame:
    """Eight readings at one anchor: accepted, refused by the own condition, refused by the shared one, and controls."""
    kinds = [ReadingKind.RETRIEVED] * 3 + [ReadingKind.SAME_ROOT] * 3 + [ReadingKind.RANDOM] * 2
    nll_with = [1.0, 2.5, 1.0, 3.0, 1.5, 3.0, 1.0, 3.0]
    entropy_with = [1.0, 1.0, 3.5, 4.0, 1.0, 4.0, 4.0, 4.0]
    return pd.DataFrame(
        {"position": np.int32(40), "kind": kinds, "entropy": 4.0, "nll": 3.0, "entropy_with": entropy_with, "nll_with": nll_with,
         "copy_len": np.int32(0)}
    )  # fmt: skip


def judged(readings: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    columns = {name: readings[name].to_numpy() for name in readings.columns}
    return readings.assign(
        root_id="root", nll_drop=readings["nll"] - readings["nll_with"], **judge(Readings(**columns), rule).columns()
    )


def test_the_config_and_its_comment_name_every_rule() -> None:
    assert set(RULES) == set(get_args(RuleName)) == set(records_in(rules))
    assert all(record.name == name for name, record in RULES.items())
    assert [name for name in RULES if f"{name}: " not in comment_above("rule")] == []
    names = [[condition.name for condition in record.conditions] for record in RULES.values()]
    assert all(len(set(one)) == len(one) for one in names), "the first that is not met is looked up by its name"


def test_another_rule_is_one_file(likelier: Config, spark: SparkSession) -> None:
    rule = Rule.of(likelier.accept)
    readings = judged(some_readings(), rule)
    assert readings["passes_likelier"].tolist() == [True, False, False, False, True, False, False, False]
    assert readings["accepted"].tolist() == [True] + [False] * 7
    assert "passes_paper BOOLEAN, passes_specific BOOLEAN, passes_likelier BOOLEAN, accepted BOOLEAN" in judged_schema()
    # Figures, the lines that people read, and the report.
    frame = spark.createDataFrame(readings[["root_id", "position", "kind", *verdict_columns()]])
    figures = _rates(frame)
    rates = [figures[f"pass_rate_{kind}_likelier"] for kind in ReadingKind]
    assert rates == pytest.approx([1 / 3, 1 / 3, 0]) and figures["fdr_likelier"] == 0
    assert figures["band_32_128_retrieved_likelier"] == pytest.approx(1 / 3)
    assert ("pass rate, likelier rule: retrieved", "33.3%") in list(lines(figures))
    counted = figures | {"dependencies": 1.0, "roots": 1.0, "sequences": 1.0}
    assert "1 of 3 (33.3%) readings of retrieved contexts pass" in verdict(counted, "likelier")
    assert "Random chunks pass the rule in force in 0.0%" in str(wording.chance(likelier, figures))
    # A comparison of two settings.
    state = cast(PipelineState, SimpleNamespace(config=likelier, readings=lambda: frame))
    passed = comparing.by_root(state).loc["root", ["passed_retrieved", "passed_same_root", "passed_random", "accepted"]]
    assert passed.tolist() == [1, 1, 0, 1]


def test_its_words_are_those_of_its_file(likelier: Config) -> None:
    rule = Rule.of(likelier.accept)
    readings = judged(some_readings(), rule)
    assert wording.acceptance_rule(likelier) == [
        "the true token is likelier by 1 nats",
        "relative fall of entropy (H - H') / H > 0.4",
    ]
    # inspect: the first condition that fails, of those that fail the first in the order of the rule.
    assert unmet(readings.to_dict("records"), rule) == ["", "NLL drop", "gain", "NLL drop", "", "NLL drop", "gain", "NLL drop"]
    # The notebooks.
    judgements = dependencies.Judged(readings.assign(why=dependencies.reasons(readings, rule)), rule)
    assert dependencies.refusals(judgements).index.tolist() == ["not certain", "gain too small", "accepted"]
    tables = dependencies.by_thresholds(judgements)
    assert list(tables) == ["min_nll_drop", "epsilon"] and tables["min_nll_drop"]["dependencies"].tolist() == [2, 0]
