"""One rank of a training run: `torchrun -m tests.ranks_run SETTINGS_JSON LOG [FAULT STEP]`. Steps go to the log as JSON lines."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from entropylong.errors import EntropyLongError
from entropylong.training import loop
from entropylong.training.loop import StepFigures, TrainSettings, train


def main(settings: str, log: str, fault: str = "", at: str = "0") -> None:
    torch.set_num_threads(1)
    stated = json.loads(settings)
    run = TrainSettings(**stated | {"feeds": tuple(stated["feeds"]), "weights": tuple(stated["weights"])})

    def on_step(figures: StepFigures) -> None:
        with Path(log).open("a") as lines:
            lines.write(json.dumps(asdict(figures)) + "\n")
        if figures.step == int(at):
            if fault == "kill":
                os.killpg(os.getpgid(0), signal.SIGKILL)
            if fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)

    if fault == "nan":
        gradients = loop.gradients
        calls: list[int] = []

        def poisoned(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append(1)
            loss, count = gradients(*args)  # type: ignore[arg-type]
            return (loss * math.nan if len(calls) == int(at) else loss), count

        loop.gradients = poisoned  # type: ignore[assignment]
    try:
        done = train(run, on_step, lambda line: print(line, flush=True))
    except EntropyLongError as error:
        print(f"error: {error}", flush=True)
        sys.exit(1)
    print(f"done: {done}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
