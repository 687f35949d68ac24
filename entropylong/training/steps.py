"""What a run writes down as it goes: a line a step, read by the driver while it runs. Pure Python.

Each addition writes the whole file aside and renames it: volumes of some clusters cannot append. After a resume the steps that
are done once more replace those that were lost with the process, so the file is always the curve of one unbroken run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from entropylong.training.settings import RESULT, TrainSettings
from entropylong.utils.files import write_whole

STEPS, STOP = "steps.jsonl", "stop"


@dataclass(frozen=True)
class StepMetrics:
    """What one step shows.

    Attributes:
        step: from 1.
        loss: mean over the tokens that count, in nats.
        rate: learning rate of the step.
        gradient_norm: before clipping.
        tokens: of the step, over all ranks.
        seconds: of the step, waiting for data among them.
        data_wait_share: share of it that the first rank waited for its rows.
        tokens_per_second: over all ranks.
        tokens_per_second_per_rank: the same for one.
        mfu: FLOPs of the step without recomputation, as a share of what the devices could do at most.
        memory_gib: peak of the first rank: allocated on the GPU, or resident.
    """

    step: int
    loss: float
    rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    data_wait_share: float
    tokens_per_second: float
    tokens_per_second_per_rank: float
    mfu: float
    memory_gib: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class StepLog:
    """The file of a run, as its first rank writes it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / STEPS
        self._entries = read_log(folder)

    def resume(self, step: int) -> None:
        """Forget the steps after `step`: they are done again."""
        self._entries = [entry for entry in self._entries if entry.get("step", 0) <= step]
        self._write()

    def add(self, entry: dict[str, Any]) -> None:
        """A step, or {"said": a line for people}."""
        self._entries.append(entry)
        self._write()

    def _write(self) -> None:
        write_whole(self._path, "".join(f"{json.dumps(entry)}\n" for entry in self._entries))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All entries, oldest first; none where there is no file yet."""
    try:
        return [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]
    except FileNotFoundError:
        return []


def is_whole(settings: TrainSettings) -> bool:
    """Whether a run's last step is done and its model written."""
    folder = Path(settings.folder)
    steps = read_steps(folder)
    return (folder / RESULT).is_dir() and bool(steps) and steps[-1].step == settings.steps


def read_steps(folder: Path) -> list[StepMetrics]:
    """The steps of a run."""
    return [StepMetrics(**entry) for entry in read_log(folder) if "step" in entry]
