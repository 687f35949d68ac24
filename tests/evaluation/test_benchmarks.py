"""A benchmark is one record: a made-up one runs through command line, result folder, comparison and model card."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest
import typer

from entropylong.cli import evaluate
from entropylong.cli.app import call
from entropylong.evaluation.benchmarks import BENCHMARKS, comparisons
from entropylong.evaluation.benchmarks.record import Benchmark, Comparison, Outcome, Pairing, Request
from entropylong.evaluation.benchmarks.section import Cell, Group, Row, Scored, Section, metric_rows
from entropylong.evaluation.results import Result
from entropylong.reporting.cards.model import ModelFacts, evaluations_of, model_card
from entropylong.reporting.comparison.collect import collect
from entropylong.reporting.comparison.page import page
from entropylong.reporting.comparison.sections import compared, judged
from entropylong.storage.workspace import Workspace
from entropylong.training.settings import TrainSettings
from entropylong.training.steps import StepMetrics
from tests.conftest import CONF, MakeConfig


def run(
    request: Request,
    riddles: Annotated[Path, typer.Argument(help="Riddles.")],
    guesses: Annotated[int, typer.Option("--guesses", min=1, help="Guesses a riddle.")] = 8,
) -> Outcome:
    """Riddles of a file.

    Examples:

        entropylong evaluate riddles riddles.txt --guesses 9
    """
    errors = int(riddles.read_text())
    facts = {"benchmark": "riddles_v1", "label": "Riddles", "model": "m", "model_hash": "abc", "riddles": "r", "guesses": guesses}
    items = {str(n): (float(n >= errors), 1.0) for n in range(guesses)}
    folder = request.folder / str(errors)
    folder.mkdir(parents=True)
    result = Result(folder, facts, {"riddles_v1.right": float(guesses - errors)}).kept([], items)
    return Outcome(result, f"{guesses - errors} right, as {request.dtype}", f"Guesses: {folder}")


def table(results: Sequence[Scored | None]) -> Section | None:
    """Right guesses, and a published one."""
    rows = metric_rows(results, [("right", "riddles_v1.right", "{:.0f}")])
    published = Row("published, Sphinx", [Cell("0") for _ in results], kind="published")
    return Section("Riddles of old", range(len(results)), [Group([*rows, published])]) if rows else None


RIDDLES = Benchmark(
    key="riddles_v1",
    command="riddles",
    title="Riddles",
    run=run,
    comparison=Comparison(("riddles",), Pairing.QUESTIONS, table, lower_is_better=True, decimals=2),
    card_facts=("guesses",),
)


@pytest.fixture
def riddles(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """The record, registered as `benchmarks/__init__.py` and the loop of `cli/evaluate.py` do."""
    monkeypatch.setitem(BENCHMARKS, RIDDLES.key, RIDDLES)
    monkeypatch.setattr(evaluate.app, "registered_commands", [*evaluate.app.registered_commands])
    evaluate.register(RIDDLES)
    return RIDDLES


def test_a_new_benchmark_is_its_record(
    riddles: Benchmark, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, errors in (("a", 1), ("b", 9)):
        make_config(tmp_path / name, tmp_path)  # which puts an MLflow store there
        (tmp_path / f"{name}.txt").write_text(str(errors))
        command = ["evaluate", riddles.command, str(tmp_path / f"{name}.txt"), f"workspace={tmp_path / name}", "--guesses", "9"]
        assert call([*command, "--config", str(CONF / "demo.yaml")]) == 0
        folder = tmp_path / name / "evaluation" / "riddles_v1" / str(errors)
        assert capsys.readouterr().out == f"{9 - errors} right, as auto\nGuesses: {folder}\n"
        assert json.loads((folder / "scores.json").read_text())["facts"]["guesses"] == 9 and (folder / "mlflow.json").is_file()
    assert call(["evaluate", "riddles", "--help"]) == 0 and "Guesses a riddle." in capsys.readouterr().out
    assert call(["evaluate", "riddles", str(tmp_path / "a.txt"), "--guesses", "0"]) == 2

    runs = collect([f"{name}={tmp_path / name}" for name in "ab"])
    (pair,) = compared(runs)
    assert (pair.benchmark, pair.rows[0].pairs, pair.rows[0].differs) == ("riddles_v1", 9, True)
    (entry,) = judged(runs)
    assert entry.section.groups[0].rows[0] == Row("right", [Cell("8"), Cell("0")])
    text = page(runs, [pair])
    assert "<h2>Riddles of old</h2>" in text and "published, Sphinx" in text and "Riddles in points of 100, where less" in text
    assert re.search(r"-88\.89<small>.*\n.*differs<small>better</small>", text), "fewer are better"
    words = ["compare", *(f"{name}={tmp_path / name}" for name in "ab"), f"workspace={tmp_path / 'a'}"]
    assert call([*words, "--config", str(CONF / "demo.yaml")]) == 0
    assert re.search(r"Riddles +-88\.89", capsys.readouterr().out)

    settings = TrainSettings("m", (), (), "run", 1024, 2, 1, 1e-4, 0.1, 0.1, 0.1, 1.0, None, "float32", 1, "cache")
    step = StepMetrics(1, 2.0, 1e-4, 1.0, 2048, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    evaluations = list(evaluations_of(Workspace(str(tmp_path / "a")), "abc"))
    card = model_card(ModelFacts("run", settings, [step], [], "abc", evaluations, "pretrain"))
    assert "Riddles (guesses 9)\n\n| figure | value |\n|---|---|\n| `riddles_v1.right` | 8 |\n" in card
    assert not list(evaluations_of(Workspace(str(tmp_path / "a")), "another model"))


def test_a_benchmark_that_is_not_registered_is_in_neither(tmp_path: Path) -> None:
    for name in "ab":
        for benchmark in ("riddles_v1", "attention", "longppl"):
            folder = tmp_path / name / "evaluation" / benchmark / "x"
            folder.mkdir(parents=True)
            facts = {"benchmark": benchmark, "model_hash": "abc", "documents": "d", "keys": "k"}
            Result(folder, facts, {"longppl.ppl": 2.0}).kept([], {"0": (1.0, 1.0)})
    runs = collect([f"{name}={tmp_path / name}" for name in "ab"])
    assert runs[0].left_out == ("attention", "riddles_v1") and [pair.benchmark for pair in compared(runs)] == ["longppl"]
    assert [label for label, _, _ in evaluations_of(Workspace(str(tmp_path / "a")), "abc")] == ["attention by depth", "LongPPL"]


def test_records_agree_with_themselves() -> None:
    assert list(BENCHMARKS) == ["ruler", "longbench_v2", "longppl", "attention", "gain_in_place"]
    assert list(comparisons()) == ["ruler", "longbench_v2", "longppl"]
    assert all(key == one.key and one.run.__doc__ for key, one in BENCHMARKS.items())
    assert len({one.command for one in BENCHMARKS.values()}) == len({one.title for one in BENCHMARKS.values()}) == len(BENCHMARKS)
    assert all(comparison.table([None, None]) is None for _, comparison in comparisons().values()), "no result, no section"


def test_records_are_read_without_what_computes() -> None:
    """`entropylong --help` reads them all."""
    heavy = ("torch", "transformers", "numpy", "scipy", "pyspark", "mlflow", "pydantic")
    code = f"import sys; import entropylong.cli.evaluate; print(*{set(heavy)} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
