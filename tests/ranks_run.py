"""One rank that breaks: `torchrun -m tests.ranks_run FOLDER/settings.json FAULT STEP`. Without a fault it is the product's own."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from typing import Any

import torch

from entropylong.training import loop, rank
from entropylong.training.steps import StepLog


def main(settings: str, fault: str, at: int) -> None:
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
    rank.end(rank.main(settings))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
