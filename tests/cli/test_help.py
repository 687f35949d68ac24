"""--help, completion, and the commands that the documentation shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import typer

from entropylong.cli import app
from entropylong.cli.options import complete_config, complete_stage

if TYPE_CHECKING:
    pass


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app.app)))


def parse(line: str) -> tuple[str, ...]:
    """Which command a line after `entropylong` calls; raises where its words are not that command's."""
    words = shlex.split(line, comments=True)
    path = max((path for path in COMMANDS if tuple(words[: len(path)]) == path), key=len)
    assert not hasattr(COMMANDS[path], "commands"), f"entropylong {line}: no such command"
    COMMANDS[path].make_context(path[-1], words[len(path) :])
    return path


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_examples_that_parse(path: tuple[str, ...]) -> None:
    examples = re.findall(r"(?m)^\s+entropylong (.+)$", (COMMANDS[path].help or "").partition("Examples:\n\n ")[2])
    assert examples, f"entropylong {' '.join(path)} --help needs an example"
    for example in examples:
        assert parse(example)[: len(path)] == path


def test_every_command_of_the_documentation_parses() -> None:
    root = Path(__file__).parents[2]
    lines = [
        line
        for file in (root / "README.md", *(root / "docs").glob("*.md"))
        for block in re.findall(r"(?s)```[a-z]*\n(.*?)```", file.read_text())
        for line in re.findall(r"(?m)^(?:[\w./]*/)?entropylong +([a-z].*)$", block.replace("\\\n", " "))
    ]
    assert len(lines) > 20 and all(map(parse, lines))


def test_help_is_grouped_by_the_users_journey(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.call(["--help"]) == 0
    output = capsys.readouterr().out
    places = [output.index(f"─ {panel} ─") for panel in app.PANELS]
    assert places == sorted(places) and list(app.PANELS)[-2:] == ["Judge a model", "Upkeep"]


def test_the_shell_completes_configs_and_stages() -> None:
    from entropylong.core.stage_names import STAGE_NAMES
    from entropylong.pipeline.steps import STEPS

    assert "demo" in complete_config("de") and "paper" not in complete_config("de")
    assert complete_stage("s") == ["score", "search"]
    assert tuple(dict.fromkeys(step.name for step in STEPS)) == STAGE_NAMES


def test_an_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(app, "open_state", lambda *_: (_ for _ in ()).throw(ModuleNotFoundError("no", name="pyspark")))
    assert app.call(["status", f"workspace={tmp_path}"]) == 1
    assert (
        capsys.readouterr().err
        == "error: pyspark is not installed; pip install 'entropylong[spark]' (entropylong doctor looks at all)\n"
    )
