"""`entropylong evaluate` from the command line: it answers, scores, keeps, goes on, and refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from entropylong.cli.app import call
from tests.conftest import CONF, MakeConfig

DEMO = str(CONF / "demo.yaml")


@pytest.fixture
def keys(tiny_lm: Path, make_config: MakeConfig, tmp_path: Path) -> list[str]:
    make_config(tmp_path / "work", tmp_path)  # which puts an MLflow store there
    return [f"workspace={tmp_path / 'work'}", f"model.name={tiny_lm}", f"node_cache={tmp_path / 'cache'}"]


def test_ruler_scores_are_kept_and_logged_once(keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "evaluate",
        "ruler",
        "--config",
        DEMO,
        "--length",
        "1500",
        "--samples",
        "2",
        "--task",
        "fwe",
        "--task",
        "niah_single_1",
        *keys,
    ]
    assert call(command) == 0
    output = capsys.readouterr().out
    assert "niah_single_1" in output and "mean of these tasks" in output
    prompts, folder = sorted((tmp_path / "work" / "evaluation" / "ruler").iterdir(), key=lambda path: path.name != "prompts")
    record = json.loads((folder / "scores.json").read_text())
    assert record["facts"]["samples"] == 2 and record["facts"]["label"].startswith("RULER-compatible")
    assert {score["task"] for score in record["scores"]} == {"fwe", "niah_single_1"} and "ruler.1500" in record["figures"]
    assert (record["facts"]["benchmark"], len(record["facts"]["model_hash"])) == ("ruler", 16)
    items = json.loads((folder / "items.json").read_text())
    assert set(items) == {f"{task}/1500/{index}" for task in ("fwe", "niah_single_1") for index in range(2)}
    assert all(0 <= value <= 1 and weight == 1 for value, weight in items.values())
    answers = (folder / "answers.jsonl").read_text()
    assert answers.count("\n") == 4 and len(list(prompts.glob("*.jsonl"))) == 2
    assert (
        "2 of 13 tasks" in output and record["facts"]["tasks"] == ["fwe", "niah_single_1"] and record["facts"]["lengths"] == [1500]
    )
    assert not any("average" in name for name in record["figures"])
    assert call(command) == 0 and (folder / "answers.jsonl").read_text() == answers, "nothing is asked again"
    (folder / "mlflow.json").unlink()  # as a kill before it is written leaves it
    assert call(command) == 0
    assert "4 of 4 answers were there already" in capsys.readouterr().err
    client = MlflowClient(f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("entropylong")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["ruler.1500"] == record["figures"]["ruler.1500"] and run.data.params["samples"] == "2"
    assert len(client.get_metric_history(run.info.run_id, "ruler.1500")) == 1


def test_longbench_from_a_file(keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = dict.fromkeys(("domain", "sub_domain", "question", "choice_A", "choice_B", "choice_C", "choice_D"), "window")
    rows = [item | {"_id": str(n), "difficulty": d, "length": s, "answer": "A", "context": "window " * 900}
            for n, (d, s) in enumerate((("easy", "short"), ("hard", "long")))]  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps(rows))
    command = ["evaluate", "longbench", str(tmp_path / "data.json"), "--config", DEMO, "--no-chat", "--max-len", "300", *keys]
    assert call(command) == 0
    output = capsys.readouterr().out
    assert "Overall" in output and "0 of 2" in output and "Medium" not in output
    (folder,) = (tmp_path / "work" / "evaluation" / "longbench_v2").iterdir()
    assert json.loads((folder / "items.json").read_text()) == {"0": [0.0, 1.0], "1": [0.0, 1.0]}
    assert json.loads((folder / "scores.json").read_text())["facts"]["benchmark"] == "longbench_v2"
    assert call([*command[:5], *command[6:]]) == 2 and "has no chat template" in capsys.readouterr().err


def test_attention_by_length_and_depth(keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "attention", "--config", DEMO, "--length", "400", "--length", "600", "--depth", "0", "--depth", "100",
               "--samples", "2", *keys]  # fmt: skip
    assert call(command) == 0
    output = capsys.readouterr().out
    assert "100 %" in output and "600" in output
    (folder,) = (tmp_path / "work" / "evaluation" / "attention").iterdir()
    record, items = (json.loads((folder / f"{name}.json").read_text()) for name in ("scores", "items"))
    assert set(items) == {f"{length}/{depth}/{index}" for length in (400, 600) for depth in (0, 100) for index in range(2)}
    assert record["figures"]["attention.400.100"] == pytest.approx((items["400/100/0"][0] + items["400/100/1"][0]) / 2)
    assert record["facts"]["benchmark"] == "attention" and all(0 < share < 1 for share, _ in items.values())
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["ruler", "--length", "9000"], "reads 2,048 tokens, --length asks for 9,000 in all", 2),
        (["ruler", "--length", "1024", "--task", "niah"], "no such task: niah", 1),
        (["ruler", "--length", "1024", "--task", "qa_1"], "qa_1 needs evaluate.squad=FILE", 1),
        (["ruler", "--length", "64", "--task", "vt", "--samples", "1"], "its smallest question has more than 64 tokens", 1),
        (["ruler", "--endpoint", "http://127.0.0.1:9/v1"], "--endpoint needs --model", 2),
        (["ruler", "--tokenizer", "x", "--length", "1024"], "--tokenizer goes with --endpoint", 2),
        (["ruler", "--dtype", "int4", "--length", "1024"], "float32, bfloat16 or auto", 2),
        (["attention", "--length", "2049"], "reads 2,048 tokens, --length asks for 2,049 in all", 2),
        (["attention", "--length", "60"], "60 tokens are too few for a needle", 1),
        (["longbench", "NONE.json"], "NONE.json cannot be read; it should be LongBench-v2", 1),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], message: str, code: int, keys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["evaluate", *arguments, "--config", DEMO, *keys]) == code
    errors = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("error")]
    assert len(errors) == 1 and message in errors[0], errors


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["sweep"], *(["evaluate", benchmark] for benchmark in ("ruler", "longbench", "longppl", "attention"))):
        assert call([*command, "--help"]) == 0 and "Example" in capsys.readouterr().out
