"""What a step counted and what a run did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from entropylong.core.stage import Stage
from entropylong.errors import QuarantineExceededError
from entropylong.storage.codes import CONTAMINATED, Outcomes
from entropylong.storage.schemas import ERROR, OK


@dataclass(frozen=True)
class Counts:
    """Keys of a step: in, done, left; and rows of its output by (outcome, code)."""

    rows_in: int
    left: int
    outcomes: Outcomes = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.rows_in - self.left

    @property
    def errors(self) -> int:
        return sum(n for (outcome, _), n in self.outcomes.items() if outcome == ERROR)

    @property
    def rows_out(self) -> int:
        return sum(n for (outcome, _), n in self.outcomes.items() if outcome == OK)

    @property
    def refused(self) -> str:
        """` (2 TOO_SHORT)`, or nothing."""
        codes = [f"{n} {code}" for (outcome, code), n in sorted(self.outcomes.items(), key=str) if outcome != OK]
        return f" ({', '.join(codes)})" if codes else ""


@dataclass(frozen=True)
class StepResult:
    """A step that ran: its declaration, fingerprint, keys in all, keys done now and seconds.

    Attributes:
        usage: of the slots' time, for a step that runs a model: `accelerator_busy` (share in forward passes) and
            `arrow_jvm_share` (share outside of our own code: Arrow, JVM, Delta, scheduling, idle slots).
    """

    step: Stage
    fingerprint: str
    keys_in: int
    keys: int
    seconds: float
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass
class RunResult:
    """A pipeline run: the steps that had work, and its figures (empty if nothing was behind)."""

    run_id: str
    steps: list[StepResult] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def require_few_errors(stage: str, counts: Counts, limit: float) -> None:
    """Raise QuarantineExceededError where more than this share of a stage's rows are errors."""
    total = sum(counts.outcomes.values())
    if total and counts.errors / total > limit:
        of_errors = {code: n for (outcome, code), n in sorted(counts.outcomes.items()) if outcome == ERROR}
        codes = ", ".join(f"{n} {code}" for code, n in of_errors.items())
        way_out = (
            f"to go on without them; {CONTAMINATED} rows share text with a set of corpus.exclude: were so many to be expected?"
            if CONTAMINATED in of_errors
            else "to go on without them, or mend the input and take a new workspace"
        )
        raise QuarantineExceededError(
            f"{stage}: {counts.errors} of {total} rows refused ({codes}), above quarantine.max_rate {limit}; "
            f"see them with `entropylong quarantine` and the same arguments; raise quarantine.max_rate {way_out}"
        )
