"""What an acceptance rule consists of: what is measured of a reading, conditions on it, and the record of a rule. Pure numpy.

The conditions that several rules share are at the end. A condition of one rule alone is in the file of that rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from entropylong.config.schema import AcceptConfig

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """The keys of `accept`: the name of a rule, and the thresholds. A rule reads those of its conditions."""

    rule: str
    epsilon: float
    min_excess: float
    min_nll_drop: float
    max_copy_tokens: int | None

    @classmethod
    def of(cls, accept: AcceptConfig) -> Rule:
        """Take them from a config's `accept` section."""
        return cls(**accept.model_dump())


@dataclass(frozen=True)
class Measures:
    """What conditions look at, `[readings]` each.

    Attributes:
        gain: (H - H') / H, a ratio.
        excess: gain minus the median gain of the controls at the same anchor; NaN without any control.
        nll_drop: the fall of the true token's negative log-likelihood, in nats.
        copy_len: tokens of the verbatim copy over the anchor.
    """

    gain: Floats
    excess: Floats
    nll_drop: Floats
    copy_len: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Condition:
    """One thing that a rule asks of a reading.

    Attributes:
        name: tells it from the other conditions.
        is_met: returns which readings meet it, `[readings]`.
        wording: says what it asks for; None where the keys switch it off.
        column: the column of `inspect` that it is about.
        refusal: says in the notebooks why a reading is refused that does not meet it.
        key: its threshold, a key of `accept`.
        tried: values of that key that the notebooks compare; empty for a condition without such a comparison.
    """

    name: str
    is_met: Callable[[Rule, Measures], Bools]
    wording: Callable[[Rule], str | None]
    column: str
    refusal: str
    key: str
    tried: tuple[float, ...] = ()


@dataclass(frozen=True)
class AcceptanceRule:
    """The record of a rule.

    Attributes:
        name: the value of `accept.rule`. It is part of the names of figures and of the column of verdicts.
        conditions: all that a reading has to meet, in the order in which they refuse: people read the first one that is not met.
        title: names the rule in the figures of a run.
        about: names the rule in the card of a dataset, and says what it looks at.
        shows_bands: whether the figures that people read list its pass rates by position, too.
    """

    name: str
    conditions: tuple[Condition, ...]
    title: str
    about: str
    shows_bands: bool = False

    @property
    def column(self) -> str:
        """The column of judged readings that says which readings pass this rule."""
        return f"passes_{self.name}"

    def passes(self, rule: Rule, measures: Measures) -> Bools:
        """Return which readings meet all conditions, `[readings]`."""
        passed: Bools = np.logical_and.reduce([condition.is_met(rule, measures) for condition in self.conditions])
        return passed

    def words(self, rule: Rule) -> list[str]:
        """Say all that a reading must satisfy, a phrase per condition."""
        return [phrase for condition in self.conditions if (phrase := condition.wording(rule)) is not None]


def _copy_words(rule: Rule) -> str | None:
    most = rule.max_copy_tokens
    return None if most is None else f"no verbatim copy of more than {most} tokens lies over the anchor"


GAIN = Condition(
    name="gain",
    is_met=lambda rule, measures: measures.gain > rule.epsilon,
    wording=lambda rule: f"relative fall of entropy (H - H') / H > {rule.epsilon:g}",
    column="gain",
    refusal="gain too small",
    key="epsilon",
    tried=tuple(round(0.05 * n, 2) for n in range(20)),
)
EXCESS = Condition(
    name="excess",
    # NaN compares false: without any control nothing can be shown to be specific.
    is_met=lambda rule, measures: measures.excess > rule.min_excess,
    wording=lambda rule: f"that fall is more than {rule.min_excess:g} above the median of the controls at the same anchor",
    column="excess",
    refusal="controls gain as much",
    key="min_excess",
    tried=tuple(round(0.05 * n, 2) for n in range(-4, 17)),
)
NLL = Condition(
    name="nll",
    is_met=lambda rule, measures: measures.nll_drop > rule.min_nll_drop,
    wording=lambda rule: (
        f"the true token's negative log-likelihood falls by more than {rule.min_nll_drop:.3f} nats "
        f"(its probability is more than {math.exp(rule.min_nll_drop):.3g} times as high)"
    ),
    column="NLL drop",
    refusal="true token no likelier",
    key="min_nll_drop",
    tried=tuple(round(0.25 * n, 2) for n in range(-4, 17)),
)
COPY = Condition(
    name="copy",
    is_met=lambda rule, measures: (
        np.ones(len(measures.gain), bool) if rule.max_copy_tokens is None else measures.copy_len <= rule.max_copy_tokens
    ),
    wording=_copy_words,
    column="copy",
    refusal="verbatim copy",
    key="max_copy_tokens",
)
