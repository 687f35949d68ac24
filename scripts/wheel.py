"""Wheel and sdist, built and installed apart as a user gets them; run, it prints how long `entropylong --help` takes there.

`python -m scripts.wheel` prints one JSON line: seconds of the median and the slowest of nine calls, each a process of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
CALLS = 9


def build(target: str, source: Path, folder: Path) -> Path:
    """The `wheel` or `sdist` of a source tree, in a folder of its own."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


def environment() -> dict[str, str]:
    """Of a process of the installed package: nothing of this one's."""
    return {"PATH": os.defpath}


def install(built: Path, folder: Path) -> Path:
    """A new environment with the package from there, and the libraries of the running one; gives its bin folder."""
    venv.create(folder, with_pip=True)
    # A folder that is named so is read for modules, but not for .pth files: an editable install there adds no checkout.
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", *options, built], env=environment(), check=True)
    return folder / "bin"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = install(build("wheel", ROOT, folder / "dist"), folder / "env") / "entropylong"
        seconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            subprocess.run([script, "--help"], env=environment(), check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"name": "help_from_wheel", "unit": "s", "median": round(statistics.median(seconds), 3),
                      "slowest": round(max(seconds), 3), "calls": CALLS}))  # fmt: skip


if __name__ == "__main__":
    main()
