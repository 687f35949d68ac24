"""Whether two models differ on the questions that both were asked: a paired bootstrap. Pure numpy.

In: of two evaluations of one benchmark, each question's score, weight and what was asked. Out: differences with their intervals.
A stratum (a task at a length) keeps its weight: of its n questions, n - 1 are drawn (`rao_wu`), as a stratum may have a few only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropylong.evaluation.benchmarks.record import Pairing
from entropylong.utils.intervals import DRAWS, percentiles, rao_wu

Floats = npt.NDArray[np.float64]
# Of five answers that differ, all in one direction, a sign test gives p = 0.06: no interval of so few is worth its name.
LEAST_DIFFERENT = 6
# Of each pairing: the unit of a difference, and what is drawn from, where that is not simply the questions.
WORDING = {
    Pairing.QUESTIONS: ("in points of 100", ""),
    Pairing.STRATA: ("in points of 100", "within each task and length"),
    Pairing.PERPLEXITY: ("as it is", "over documents"),
}


@dataclass(frozen=True)
class Answered:
    """A question that was asked: its score, what that weighs, and which prompt it was (a hash)."""

    value: float
    weight: float
    asked: str


@dataclass(frozen=True)
class Difference:
    """Two models on the same questions.

    Attributes:
        scope: of which questions.
        reference, other: the figure of each on them.
        interval: 95 %, of other - reference; None where fewer than `LEAST_DIFFERENT` pairs differ.
        pairs, different: questions, and those of them with two different scores.
    """

    scope: str
    reference: float
    other: float
    interval: tuple[float, float] | None
    pairs: int
    different: int

    @property
    def difference(self) -> float:
        """Other - reference."""
        return self.other - self.reference

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def verdict(self) -> str:
        """In words."""
        return "differs" if self.differs else "no difference shown"


Questions = Mapping[str, Answered]


def differences(pairing: Pairing, reference: Questions, other: Questions, seed: int = 0) -> list[Difference]:
    """Differences over the common questions, the overall one first; none if no question was asked of both in the same words.

    Args:
        pairing: how the benchmark is paired; STRATA gives differences by length and by task too.
        reference, other: what each answered, by key.
        seed: of the draws.
    """
    common = [key for key in reference if key in other and reference[key].asked == other[key].asked]
    if not common:
        return []
    rng = np.random.default_rng(seed)
    values = np.array([(reference[key].value, other[key].value) for key in common], np.float64).T
    if pairing is Pairing.PERPLEXITY:
        return [_perplexity(values, np.array([reference[key].weight for key in common], np.float64), rng)]
    if pairing is Pairing.STRATA:
        return _by_strata(common, 100 * values, rng)
    return [_mean("overall", [_Stratum(100 * values, rng)], [1.0])]


class _Stratum:
    """Questions that are drawn from together: their scores `[2, n]`, means `[2]`, and means of the differences of each draw."""

    def __init__(self, values: Floats, rng: np.random.Generator) -> None:
        self.means = values.mean(axis=1)
        self.pairs = values.shape[1]
        delta = values[1] - values[0]
        self.different = int(np.count_nonzero(delta))
        self.draws = delta[rao_wu(self.pairs, DRAWS, rng)].mean(axis=1) if self.different and self.pairs > 1 else None


def _by_strata(keys: Sequence[str], values: Floats, rng: np.random.Generator) -> list[Difference]:
    """Mean over a stratum, over its length's tasks, over lengths; of a task, over its lengths."""
    places: dict[tuple[str, int], list[int]] = {}
    for place, key in enumerate(keys):
        task, length, _ = key.split("/")
        places.setdefault((task, int(length)), []).append(place)
    strata = {name: _Stratum(values[:, own], rng) for name, own in places.items()}
    lengths = sorted({length for _, length in strata})
    tasks = list(dict.fromkeys(task for task, _ in strata))
    a_length = {length: sum(own == length for _, own in strata) for length in lengths}
    whole = [1 / a_length[length] / len(lengths) for _, length in strata]
    scopes = {f"{length:,} tokens": [own for name, own in strata.items() if name[1] == length] for length in lengths}
    scopes |= {task: [own for name, own in strata.items() if name[0] == task] for task in tasks}
    rows = [_mean("overall", list(strata.values()), whole)]
    return rows + [_mean(scope, own, [1 / len(own)] * len(own)) for scope, own in scopes.items()]


def _mean(scope: str, strata: Sequence[_Stratum], weights: Sequence[float]) -> Difference:
    """A weighted mean of strata's means."""
    reference, other = np.average([stratum.means for stratum in strata], axis=0, weights=weights)
    different = sum(stratum.different for stratum in strata)
    interval = None
    # A stratum of one question has no spread of its own that could be known.
    if different >= LEAST_DIFFERENT and all(stratum.pairs > 1 for stratum in strata):
        draws = np.zeros(DRAWS)
        for stratum, weight in zip(strata, weights, strict=True):
            if stratum.draws is not None:
                draws += weight * stratum.draws
        interval = percentiles(draws)
    pairs = sum(stratum.pairs for stratum in strata)
    return Difference(scope, float(reference), float(other), interval, pairs, different)


def _perplexity(values: Floats, weights: Floats, rng: np.random.Generator) -> Difference:
    """exp of the mean NLL over all key tokens; drawn are documents, each with all of its key tokens."""
    reference, other = np.exp(np.average(values, axis=1, weights=weights))
    different = int(np.count_nonzero(values[0] != values[1]))
    interval = None
    if different >= LEAST_DIFFERENT:
        indices = rao_wu(values.shape[1], DRAWS, rng)
        own = weights[indices]
        first, second = (np.exp((of_model[indices] * own).sum(axis=1) / own.sum(axis=1)) for of_model in values)
        interval = percentiles(second - first)
    return Difference("overall", float(reference), float(other), interval, values.shape[1], different)
