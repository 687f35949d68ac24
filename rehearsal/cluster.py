"""A standalone cluster of Spark on this machine, of daemons that end with the block that started them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
SECONDS = 60
PLACE = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")


def environment(*more: str) -> dict[str, str]:
    """What daemons of a cluster on this machine need of the variables there are, and `more` of these."""
    return {key: os.environ[key] for key in ("PATH", "HOME", "JAVA_HOME", *more) if key in os.environ} | {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
        "SPARK_DAEMON_MEMORY": "256m",
    }


@contextmanager
def daemon(name: str, log: Path, variables: Mapping[str, str], *arguments: str) -> Iterator[None]:
    """A daemon of Spark's with what it starts, until the block ends, however it ends."""
    command = [str(SPARK_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out, cwd=log.parent, start_new_session=True)
    try:
        yield
    finally:
        # Its process group: a worker's executors are in it.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def log_value(log: Path, pattern: str) -> str:
    """What a daemon's log says, once it does.

    Raises:
        TimeoutError: it does not say it within a minute.
    """
    until = time.monotonic() + SECONDS
    while not (match := re.search(pattern, log.read_text())):
        if time.monotonic() > until:
            raise TimeoutError(log.read_text()[-2000:])
        time.sleep(0.1)
    return match[1]


@contextmanager
def cluster(folder: Path, workers: int, memory: str) -> Iterator[str]:
    """A master and workers of one core each; gives what `spark.master` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = environment("PYTHONPATH")
    with ExitStack() as running:
        log = folder / "master.log"
        running.enter_context(daemon("master.Master", log, variables, *PLACE))
        master = log_value(log, r"Starting Spark master at (spark://\S+)")
        for number in range(workers):
            log = folder / f"worker-{number}.log"
            size = ("--cores", "1", "--memory", memory, "--work-dir", str(folder / f"work-{number}"))
            running.enter_context(daemon("worker.Worker", log, variables, *PLACE, *size, master))
            log_value(log, r"(Successfully registered) with master")
        yield master
