"""The wheel, built and installed apart: conf/ travels inside, the console script answers."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_wheel_installs_and_answers(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    # The libraries come from the running environment; the package itself only from the wheel.
    environment = {"PYTHONPATH": sysconfig.get_paths()["purelib"], "PATH": "/usr/bin:/bin"}
    script = tmp_path / "env" / "bin" / "entropylong"
    done = subprocess.run(
        [script, "run", "--describe", "--config", "paper", "sources.docs.kind=jsonl", "sources.docs.path=x.jsonl"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "sequences" in done.stdout, done.stderr
    where = subprocess.run(
        [python, "-c", "import entropylong.config_files as c; print(c.conf_dir())"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "env") in where.stdout
