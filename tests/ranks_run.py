"""Launches of a run that breaks: `python -m tests.ranks_run`, a JSON list a line as input, an exit code a line as output.

Each launch is torchrun's own, in a session of its own; its ranks are the product's, with a fault. They are forked from this
process, which has loaded the libraries: else each of some fifteen ranks would load them anew, for seconds. The list: what
follows "torchrun", the file for what is printed, the fault ("" for none), its step.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import run as torchrun
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from entropylong.training import loop, rank
from entropylong.training.steps import StepLog


def broken_rank(settings: str, fault: str, at: int) -> int:
    add, gradients, calls = StepLog.add, loop.gradients, list[int]()

    def broken(log: StepLog, entry: dict[str, Any]) -> None:
        add(log, entry)
        if entry.get("step") == at:
            if fault == "kill":
                os.killpg(os.getpgid(0), signal.SIGKILL)
            if fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "disk":  # files of more than 2,000 bytes cannot be written: a checkpoint, not the log
                resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))

    def counted(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        if fault == "dead" and os.environ["RANK"] == "1" and len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        loss, count = gradients(*args)
        return (loss * math.nan if fault == "nan" and len(calls) == at else loss), count

    StepLog.add = broken  # type: ignore[method-assign]
    loop.gradients = counted  # type: ignore[assignment]
    return rank.main(settings)


def launch(arguments: list[str], output: str, fault: str, at: int) -> None:
    """In a forked process, to its end."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)

    def forking(config: LaunchConfig, entrypoint: Any) -> Callable[..., Any]:
        return lambda *args: elastic_launch(config, broken_rank)(args[-1], fault, at)

    torchrun.elastic_launch = forking  # type: ignore[attr-defined]
    status = 1
    try:
        torchrun.main(["--start-method=fork", *arguments])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            launch(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
