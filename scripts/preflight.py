"""Is this machine ready to be set up? One line a problem, before anything is downloaded. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

LEAST_DISK_GB = 12
JAVA = "install Java 17 (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME"


def problems() -> list[str]:
    """What is missing or of the wrong version, each with what to do."""
    messages = []
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        have = ".".join(map(str, sys.version_info[:3]))
        messages.append(f"Python {have} at {sys.executable}: 3.11 or 3.12 is needed; run make PYTHON=/path/to/python3.11")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        messages.append("Python has no venv module; install it (Debian: apt-get install python3-venv)")
    messages += java_problem()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if not Path(".venv/bin/python").exists() and free < float(os.environ.get("ENTROPYLONG_LEAST_DISK_GB", LEAST_DISK_GB)):
        messages.append(f"disk: {free:.0f} GB free here, {LEAST_DISK_GB} GB are needed for the environment; free some")
    return messages


def java_problem() -> list[str]:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).exists():
        return [f"Java is not installed{' at JAVA_HOME=' + home if home else ''}; {JAVA}"]
    printed = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', printed)
    if version is None or version.group(1) not in ("17", "21"):
        return [f"Java {version.group(1) if version else '?'} at {java} does not run Spark 4.0; {JAVA}"]
    return []


if __name__ == "__main__":
    lines = problems()
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1 if lines else 0)
