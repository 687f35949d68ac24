"""What stands beside the code when it is released: one version, a changelog, a citation; and the environment of the tests."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from cffconvert import Citation

import entropylong
from entropylong.errors import SetupError
from entropylong.training.run import require_reader
from tests.conftest import ON_RUNTIME

pytestmark = pytest.mark.runtime

ROOT = Path(__file__).parents[2]
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_stands_in_one_place() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in pyproject["project"] and pyproject["tool"]["hatch"]["version"]["path"] == "entropylong/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", entropylong.__version__)
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.+)$", text, re.M)
    assert heads and all(re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads), heads
    newest = heads[0]
    assert newest == "[Unreleased]" or newest.startswith(f"[{entropylong.__version__}]")
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= SECTIONS


def test_the_citation_is_valid_and_names_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    Citation(text).validate()
    (paper,) = yaml.safe_load(text)["references"]
    assert "2510.02330" in paper["url"] and len(paper["authors"]) == 8


def test_the_environment_is_the_one_that_is_meant() -> None:
    """All of it is tested with the pins of the extra `train`; the ETL once more with neither, as on a Databricks runtime."""
    has_petastorm, major = importlib.util.find_spec("petastorm") is not None, int(pa.__version__.split(".")[0])
    assert (has_petastorm, major > 14) == (not ON_RUNTIME, ON_RUNTIME), pa.__version__
    with pytest.raises(SetupError, match=r"pip install 'entropylong\[train\]'") if ON_RUNTIME else nullcontext():
        require_reader()
