"""Each test is of one kind, and a unit test is one."""

from __future__ import annotations

import pytest
from pyspark import SparkContext
from transformers import LlamaConfig, LlamaForCausalLM

from tests.kinds import KINDS, kind_of


def test_every_test_is_of_one_kind(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert len({mark.name for mark in item.iter_markers()} & set(KINDS)) == 1, item.nodeid


@pytest.mark.parametrize(
    ("fixtures", "kind"),
    [
        ((), "unit"),
        (("tmp_path", "tiny_models", "make_config"), "model"),
        (("spark", "tiny_models", "finished"), "spark"),
        (("spark", "wheel"), "e2e"),
    ],
)
def test_fixtures_tell_the_kind(fixtures: tuple[str, ...], kind: str, request: pytest.FixtureRequest) -> None:
    item = pytest.Function.from_parent(request.node.parent, name="named", callobj=lambda: None)
    item.fixturenames = list(fixtures)
    assert kind_of(item) == kind
    item.add_marker("e2e")
    assert kind_of(item) == "e2e"
    item.add_marker("model")
    with pytest.raises(pytest.UsageError, match="named is marked e2e and model; a test is of one kind"):
        kind_of(item)


def test_a_unit_test_cannot_start_spark_or_make_a_model() -> None:
    with pytest.raises(pytest.fail.Exception, match="a unit test makes a SparkContext"):
        SparkContext("local[1]", "none")
    with pytest.raises(pytest.fail.Exception, match="a unit test makes a PreTrainedModel"):
        LlamaForCausalLM(LlamaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=9))
