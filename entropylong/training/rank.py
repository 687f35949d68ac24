"""One process of a training run: `torchrun ... -m entropylong.training.rank FOLDER/settings.json`, by whatever launcher."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import torch

from entropylong.errors import EntropyLongError
from entropylong.training.loop import train
from entropylong.training.settings import TrainSettings
from entropylong.training.steps import StepLog
from entropylong.utils.log import PACKAGE, CallbackHandler, show

logger = logging.getLogger(__name__)


def main(path: str) -> int:
    """Train; an error goes, as one line, to `error-<rank>` in the run's folder, where the driver looks for it."""
    file = Path(path).parent / f"error-{os.environ.get('RANK', '0')}"
    try:
        settings = TrainSettings.read(Path(path))
        file.unlink(missing_ok=True)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        log = StepLog(Path(settings.folder))

        show()
        # Into the log of steps too, from which the driver shows them. The first rank's alone: each writes the whole file.
        if os.environ.get("RANK", "0") == "0":
            logging.getLogger(PACKAGE).addHandler(CallbackHandler(lambda line: log.add({"said": line})))
        train(settings, on_step=lambda figures: log.add(figures.as_json()), on_resume=log.resume)
    except (EntropyLongError, OSError, torch.OutOfMemoryError) as error:
        line = " ".join(str(error).split())
        logger.error("error: %s", line)
        file.write_text(json.dumps({"error": line[:1000], "kind": type(error).__name__}))
        end(1)  # not by an exit that waits for the other ranks, which wait for this one
    return 0


def end(status: int) -> NoReturn:
    """Leave at once: threads of gloo and Petastorm that outlive their work can abort a process while Python takes itself down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    end(main(sys.argv[1]))
