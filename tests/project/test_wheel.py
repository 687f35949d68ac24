"""Wheel and sdist, built and installed apart: conf/ travels inside, the console script answers, the sdist is whole."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import entropylong
from scripts.wheel import ROOT, build, environment, install

HEAVY = ("torch", "pyspark", "transformers", "mlflow", "pandas", "pyarrow", "matplotlib", "sklearn")


@dataclass(frozen=True)
class Built:
    """What is published, and the wheel that whoever has the sdist can build."""

    wheel: Path
    sdist: Path
    unpacked: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    sdist = build("sdist", ROOT, folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "tree", filter="data")
    (unpacked,) = (folder / "tree").iterdir()
    return Built(wheel, sdist, unpacked, build("wheel", unpacked, folder / "wheel-of-sdist"))


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_installs_and_answers(built: Built, installed: Path, kind: str, tmp_path: Path) -> None:
    bin_folder = installed if kind == "wheel" else install(built.sdist, tmp_path / "env")

    def say(*command: str | Path) -> str:
        done = subprocess.run([*command], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    entropylong_command, python = bin_folder / "entropylong", bin_folder / "python"
    sources = ("sources.docs.kind=jsonl", "sources.docs.path=x.jsonl")
    assert "sequences" in say(entropylong_command, "run", "--describe", "--config", "paper", *sources)
    assert say(entropylong_command, "--version").strip() == entropylong.__version__
    assert str(bin_folder.parent) in say(python, "-c", "import entropylong.config.loader as c; print(c.conf_dir())")
    # What keeps the first answer under a second; `python -m scripts.wheel` measures it.
    loaded = f"import sys; from entropylong.cli import main; main(['--help']); print('loaded', *{set(HEAVY)} & set(sys.modules))"
    output = say(python, "-c", loaded)
    assert "inspect" in output and output.splitlines()[-1] == "loaded"


def test_the_wheel_of_the_sdist_is_the_wheel(built: Built) -> None:
    assert built.wheel.name == built.wheel_of_sdist.name == f"entropylong-{entropylong.__version__}-py3-none-any.whl"
    files = []
    for wheel in (built.wheel, built.wheel_of_sdist):
        with zipfile.ZipFile(wheel) as archive:
            files.append({name: archive.read(name) for name in archive.namelist()})
    assert files[0].keys() == files[1].keys() and files[0] == files[1]
    assert {"entropylong/conf/base.yaml", "entropylong/templates/dataset_card.md.j2"} <= files[0].keys()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with what git tracks, and this is no checkout")
def test_the_sdist_holds_all_that_is_tracked(built: Built) -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}
    inside = {str(path.relative_to(built.unpacked)) for path in built.unpacked.rglob("*") if path.is_file()}
    assert tracked <= inside, f"add to the sdist in pyproject.toml: {sorted(tracked - inside)}"
    assert not [name for name in inside if name.startswith((".venv", "runs/")) or name.endswith(".pyc")]
