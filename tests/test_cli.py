"""The command line as a user meets it: exit codes and messages, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.conftest import CONF, MakeConfig, OpenRunner


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "entropylong.cli", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_usage_errors_are_one_line_and_exit_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    names = {"DEMO": str(CONF / "demo.yaml"), "workspace=WS": f"workspace={tmp_path}"}
    done = cli(*[names.get(a, a) for a in arguments])
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing", "no such file or directory"),
        ("short", "roots.min_tokens"),
    ],
)
def test_bad_corpora_are_one_line_and_exit_1(source: str, said: str, tmp_path: Path, tiny_lm: Path, tiny_encoder: Path) -> None:
    path = tmp_path / f"{source}.jsonl"
    rows = {
        "short": [{"text": "one"}, {"text": "two words here"}],
    }
    if source in rows:
        tiny.write_jsonl(path, rows[source])
    done = cli(
        "run", "--config", str(CONF / "demo.yaml"), "--input", str(path), f"workspace={tmp_path / 'w'}",
        f"model.name={tiny_lm}", f"encoder.name={tiny_encoder}", f"node_cache={tmp_path / 'c'}", "roots.max_tokens=300",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0] and "Traceback" not in done.stderr, done.stderr


def test_help_has_examples_and_describe_needs_no_spark() -> None:
    for command in ("run", "status", "inspect", "quarantine"):
        done = cli(command, "--help")
        assert done.returncode == 0 and "Example" in done.stdout
    described = cli("run", "--describe", "--config", str(CONF / "demo.yaml"))
    assert described.returncode == 0 and "scored_documents" in described.stdout


def test_status_and_inspect(finished: Path, corpus: Path, make_config: MakeConfig, open_runner: OpenRunner, tmp_path: Path) -> None:
    runner = open_runner(finished)
    root = runner.store.read_ok("anchors", runner.fingerprint("anchors")).orderBy("root_id").head().root_id
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(make_config(finished, corpus).model_dump()))
    status = cli("status", "--config", str(file), "--json")
    assert status.returncode == 0 and {row["left"] for row in json.loads(status.stdout)} == {0}, status.stderr
    shown = cli("inspect", root, "--config", str(file))
    assert shown.returncode == 0 and "anchors: H >" in shown.stdout and root in shown.stdout, shown.stderr
