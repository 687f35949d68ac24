"""The house: few modules at the top, no file that is more than a few screens, no table's name compared outside of the stages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from entropylong.storage.schemas import TABLES

ROOT = Path(__file__).parents[2]
MOST_LINES = 360
FILES = sorted(path for folder in ("entropylong", "jobs") for path in (ROOT / folder).rglob("*.py"))


def test_files_are_short_and_have_a_room() -> None:
    long = {str(file.relative_to(ROOT)): lines for file in FILES if (lines := len(file.read_text().splitlines())) > MOST_LINES}
    assert long == {}
    assert len(list((ROOT / "entropylong").glob("*.py"))) <= 3, "errors, worker_daemon and __init__: all else is in a folder"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_table_is_compared_by_name(file: Path) -> None:
    """What differs from table to table is said by its stage or its schema."""
    names = {*TABLES, "index"}
    compared = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Compare)
        and {side.value for side in (node.left, *node.comparators) if isinstance(side, ast.Constant)} & names
        and ("writes" in ast.unparse(node) or "table" in ast.unparse(node))
    ]
    assert compared == []


def test_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "ignored" not in done.stdout, done.stdout
