"""RULER's prompts on disk: a file a task and length, made once for all models that share a tokenizer. Pure Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from entropylong.errors import EvaluationError
from entropylong.evaluation.ruler.material import Material, prompts
from entropylong.evaluation.ruler.prepare import GENERATOR, Row, rows_of
from entropylong.evaluation.ruler.tasks import Task
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.utils.locks import locked


@dataclass(frozen=True)
class Counter:
    """Counts tokens.

    Attributes:
        count: tokens of a text, without special tokens.
        fingerprint: of the tokenizer.
    """

    count: Callable[[str], int]
    fingerprint: str


@dataclass(frozen=True)
class Part:
    """Rows of a task at a length, as they are kept.

    Attributes:
        path: of the JSON lines.
        fingerprint: of the rows.
        keys: of their prompts.
        longest: the row that takes the most of the length.
    """

    path: Path
    fingerprint: str
    keys: tuple[str, ...]
    longest: Row

    @property
    def name(self) -> str:
        """Task and length: what the keys of its prompts begin with."""
        return f"{self.longest.task}/{self.longest.length}"

    def rows(self) -> list[Row]:
        """The rows.

        Raises:
            EvaluationError: the file is damaged.
        """
        return _read(self.path)[0]


def prepare(
    tasks: Sequence[Task], lengths: Sequence[int], samples: int, seed: int, material: Material, counter: Counter, folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Part]:  # fmt: skip
    """Make the files that are not there yet; one that another run made of the same is read.

    Args:
        tasks, lengths, samples, seed: which rows.
        material: files that some tasks need.
        counter: of the model's tokens.
        folder: where the files are.
        progress: told (rows so far, rows in all), first how many were there already.

    Raises:
        EvaluationError: a row does not fit, a file is missing or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [
        (length, task, folder / _name(task, length, samples, seed, material, counter)) for length in lengths for task in tasks
    ]
    total = len(targets) * samples
    done = sum(samples for _, _, path in targets if path.is_file())
    progress(done, total)
    parts = []
    for length, task, path in targets:
        if not path.is_file():
            with locked(f"{path}.lock"):  # evaluations that run beside each other share the files
                if not path.is_file():
                    row_progress = partial(_told, progress, done, total)
                    rows = rows_of(task, length, samples, material, counter.count, seed, row_progress)
                    write_whole(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
            done += samples
            progress(done, total)
        parts.append(_part(path))
    return parts


def _told(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _name(task: Task, length: int, samples: int, seed: int, material: Material, counter: Counter) -> str:
    """Names all that rows depend on."""
    of = {"samples": samples, "seed": seed, "tokenizer": counter.fingerprint, "material": task.files(material),
          "generator": GENERATOR, "prompts": prompts()}  # fmt: skip
    return f"{task.name}-{length}-{digest(of)}.jsonl"


def _part(path: Path) -> Part:
    rows, fingerprint = _read(path)
    longest = max(rows, key=lambda row: row.tokens)  # all of a task may write equally many
    return Part(path, fingerprint, tuple(row.prompt.key for row in rows), longest)


def _read(path: Path) -> tuple[list[Row], str]:
    content = path.read_bytes()
    try:
        # JSON's own line ends: a text may hold others.
        rows = [Row(**row | {"references": tuple(row["references"])}) for row in map(json.loads, content.split(b"\n")[:-1])]
    except (ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}: holds a line that is no question; remove it, and it is made again") from None
    return rows, hashlib.sha256(content).hexdigest()[:16]
