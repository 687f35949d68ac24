"""The documentation agrees with the code: generated pages are those of today, every code is explained, no link is broken."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from entropylong.storage.codes import CODES
from scripts.reference import PAGES

ROOT = Path(__file__).parents[2]
# What a row's code is given to.
_REFUSING = {"refuse", "_refuse", "refused", "Refusal", "RefusedError", "Damaged", "Record", "Outcome"}


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_those_of_the_code(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "make docs writes them anew"


def _codes(tree: ast.Module) -> Iterator[str]:
    """Strings like a code: handed to what refuses a row, or the value of a constant in a module that does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in _REFUSING:
            inside = [n for part in (*node.args, *(k.value for k in node.keywords)) for n in ast.walk(part)]
            yield from (n.value for n in inside if isinstance(n, ast.Constant) and isinstance(n.value, str))
        elif isinstance(node, ast.Assign):
            names = [getattr(t, "id", "") for target in node.targets for t in ast.walk(target)]
            values = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            yield from (value for value in values if value in names or names == ["CODE"])


def test_every_code_is_explained_and_none_is_made_up() -> None:
    codes = {
        code
        for file in (ROOT / "entropylong").rglob("*.py")
        if file.name != "codes.py"
        for code in _codes(ast.parse(file.read_text()))
        if re.fullmatch(r"[A-Z]{2,}(_[A-Z0-9]+)*", code)
    }
    assert codes - CODES.keys() == set()
    written = "".join(f.read_text() for f in (ROOT / "entropylong").rglob("*.py") if f.name != "codes.py")
    # A code stands in the code as a string, or by the name of its constant.
    assert [code for code in CODES if not re.search(rf"\b{code}\b", written)] == []


def test_the_site_builds_and_no_link_is_broken(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "tables" / "index.html").read_text()
    assert "scored_documents" in page
    # The README's links are no page of the site's.
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), f"README.md links {target}"
