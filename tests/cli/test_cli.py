"""The command line as a user meets it: exit codes and messages, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from entropylong.cli.app import call
from entropylong.errors import NothingToDoError
from tests import tiny
from tests.conftest import CONF, MakeConfig, OpenRunner


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "entropylong.cli", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["run", "scor", "--config", "DEMO"], "no stage 'scor'; the stages are: ingest, chunk"),
        (["run", "--config", "DEMO", "anchors.alpa=2"], "the nearest valid key is 'anchors.alpha'"),
        (["run", "--config", "DEMO", "anchors.alpha=high"], "key 'anchors.alpha'"),
        (["run", "--config", "DEMO", "roots.max_tokens=9000", "pack.length=20000", "workspace=WS"], "beyond the window"),
        (["run", "--confg", "x"], "No such option"),
        (["frobnicate"], "No such command"),
        (["inspect", "--config", "DEMO"], "Missing argument"),
        (["status", "--config", "DEMO", "score"], "'score' is not an override"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"DEMO": str(CONF / "demo.yaml"), "workspace=WS": f"workspace={tmp_path}"}
    assert call([names.get(a, a) for a in arguments]) == 2
    stderr = capsys.readouterr().err
    assert expected in stderr and len(stderr.strip().splitlines()) == 1, stderr


@pytest.mark.e2e
def test_a_usage_error_exits_2() -> None:
    done = cli("run", "--config", str(CONF / "demo.yaml"), "anchors.alpa=2")
    assert done.returncode == 2 and "the nearest valid key is 'anchors.alpha'" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.e2e
def test_a_missing_corpus_is_one_line_and_exits_1(tmp_path: Path, tiny_lm: Path, tiny_encoder: Path) -> None:
    done = cli(
        "run", "--config", str(CONF / "demo.yaml"), "--input", str(tmp_path / "missing.jsonl"), f"workspace={tmp_path / 'w'}",
        f"model.name={tiny_lm}", f"encoder.name={tiny_encoder}", f"node_cache={tmp_path / 'c'}", "roots.max_tokens=300",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "no such file or directory" in errors[0] and "Traceback" not in done.stderr, done.stderr


def test_help_has_examples_and_describe_names_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "plan", "status", "inspect", "check", "quarantine"):
        assert call([command, "--help"]) == 0 and "Example" in capsys.readouterr().out
    assert call(["run", "--describe", "--config", str(CONF / "demo.yaml")]) == 0
    assert "scored_documents" in capsys.readouterr().out


def test_commands_on_a_finished_workspace(
    finished: Path,
    corpus: Path,
    make_config: MakeConfig,
    open_runner: OpenRunner,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, as a running session serves them at once."""
    runner = open_runner(finished)
    root = runner.state.ok_rows("anchors").orderBy("root_id").head().root_id
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(make_config(finished, corpus).model_dump()))
    assert call(["status", "--config", str(file), "--json"]) == 0
    assert {row["left"] for row in json.loads(capsys.readouterr().out)} == {0}
    assert call(["inspect", root, "--config", str(file)]) == 0
    output = capsys.readouterr().out
    assert "anchors: H >" in output and root in output
    assert call(["inspect", "nobody", "--config", str(file)]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: nobody: not among the scored roots") and len(stderr.splitlines()) == 1
    assert call(["quarantine", "--config", str(file)]) == 0 and "No row was refused" in capsys.readouterr().out
    assert call(["check", "--config", str(file), "--json"]) == 0
    assert {check["wrong"] for check in json.loads(capsys.readouterr().out)} == {0}


def test_roots_that_are_too_short_are_told(tmp_path: Path, open_runner: OpenRunner) -> None:
    source = tiny.write_jsonl(tmp_path / "short.jsonl", [{"text": "one"}, {"text": "two words here"}])
    with pytest.raises(NothingToDoError, match=r"anchors: no root was scored; lower roots\.min_tokens .* 2 TOO_SHORT"):
        open_runner(tmp_path / "w", source=source).run(["ingest", "score", "anchors"])
