"""Step `prepare` of RULER: rows of a task at a length. Pure Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from entropylong.errors import EvaluationError
from entropylong.evaluation.generation import Prompt
from entropylong.evaluation.ruler.material import Material, option
from entropylong.evaluation.ruler.tasks import TASKS, Sample, Setting, Task

SEED = 42
# Raise it when any row changes: rows that are on disk are made again.
GENERATOR = 1
# Smallest sizes: a chain has five lines to stand between, there are ten common words.
_LEAST = {"vt": 5, "cwe": 10}
LENGTHS = (8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True)
class Row:
    """A question as it is kept.

    Attributes:
        task, length, index: which it is.
        tokens: of text and prefix, without special tokens; those to generate come on top, within the length.
        text, prefix, references: as in `Sample`.
    """

    task: str
    length: int
    index: int
    tokens: int
    text: str
    prefix: str
    references: tuple[str, ...]

    @property
    def prompt(self) -> Prompt:
        """What is asked."""
        return Prompt(f"{self.task}/{self.length}/{self.index}", self.text, self.prefix, TASKS[self.task].new_tokens)


def rows_of(
    task: Task, length: int, samples: int, material: Material, count: Callable[[str], int], seed: int = SEED,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Row]:  # fmt: skip
    """Rows of a task. Their size is found by bisection on one sample; a row that overruns drops one step and is drawn again.

    Args:
        task: which.
        length: tokens, those to generate among them.
        samples: rows.
        material: files that some tasks need.
        count: tokens of a text, without special tokens.
        seed: another seed, other rows.
        progress: told how many rows there are so far.

    Raises:
        EvaluationError: a file is missing, or not even the smallest question fits the length.
    """
    setting = Setting(length, seed, material, count)
    size = _fitting_size(task, setting)
    rows = []
    for index in range(samples):
        rows.append(_row(task, setting, size, index))
        progress(index + 1)
    return rows


def _row(task: Task, setting: Setting, size: int, index: int) -> Row:
    least = _LEAST.get(task.prompt, 1)
    sizes = [*range(size, least, -_step(task, setting)), least]
    for attempt, smaller in enumerate(sizes):
        sample, tokens = _drawn(task, setting, smaller, index, attempt)
        if tokens + task.new_tokens <= setting.length:
            return Row(task.name, setting.length, index, tokens, *asdict(sample).values())
    raise EvaluationError(
        f"ruler {task.name}: its smallest question has more than {setting.length:,} tokens; ask for a greater length"
    )


def _drawn(task: Task, setting: Setting, size: int, index: int, attempt: int = 0) -> tuple[Sample, int]:
    # A generator a row: rows do not depend on how many were asked for.
    rng = random.Random(f"{setting.seed}/{task.name}/{setting.length}/{index}/{attempt}")
    sample = task.build(setting, size, rng, max(index, 0))
    return sample, setting.count(sample.text + sample.prefix)


def _step(task: Task, setting: Setting) -> int:
    return task.step_at(setting.length) or (setting.length - task.new_tokens) // 32


def _fitting_size(task: Task, setting: Setting) -> int:
    step = _step(task, setting)

    def fits(size: int) -> bool:
        return _drawn(task, setting, size, -1)[1] + task.new_tokens <= setting.length

    if task.prompt == "fwe":
        # The public generator grows it step by step from a sixth of the budget, until one more would not fit.
        size = (setting.length - task.new_tokens) // 6
        while fits(size + step):
            size += step
        return size
    # Doubled until it no longer fits: what a small sample costs a unit says little, as most of it is the same at any size.
    most = _most(task, setting)
    fit, high = step, 2 * step
    while high < most and fits(high):
        fit, high = high, 2 * high
    low, high = fit + 1, min(high, most)
    while low <= high:
        middle = (low + high) // 2
        if fits(middle):
            fit, low = middle, middle + 1
        else:
            high = middle - 1
    if task.prompt == "cwe" and fit == most:
        fits(fit + 1)  # which says what is missing, where there is no longer list of words
    return fit


def _most(task: Task, setting: Setting) -> int:
    """The largest size that there is material for."""
    if task.prompt == "qa":
        return len(setting.material.reading(task.needs or "").documents)
    if task.prompt == "cwe":
        words = setting.material.english_words() if setting.material.has("words") else setting.material.common_words
        return len(words)
    return setting.length


def runnable(names: Sequence[str], material: Material) -> tuple[list[Task], list[str]]:
    """The tasks by name (none: all that have their file), and those left out for want of a file.

    Raises:
        EvaluationError: a name is no task's, or a named task's file was not given.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise EvaluationError(f"no such task: {unknown[0]}; there are {', '.join(TASKS)}")
    chosen = [TASKS[name] for name in names] or list(TASKS.values())
    without = [task.name for task in chosen if task.needs and not material.has(task.needs)]
    if names and without:
        raise EvaluationError(f"{without[0]} needs {option(str(TASKS[without[0]].needs))}")
    return [task for task in chosen if task.name not in without], without
