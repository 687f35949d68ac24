"""From raw measurements to verdicts: gains, controls, and what each acceptance rule says of them. Pure numpy.

A *reading* is what the model measured at one anchor of a root behind one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.verification.rules import RULES
from entropylong.verification.rules.base import Bools, Floats, Measures, Rule


class ReadingKind(StrEnum):
    """How a chunk came to be read at an anchor: `retrieved` by it, `same_root` (by another anchor of the root) or `random`."""

    RETRIEVED = "retrieved"
    SAME_ROOT = "same_root"
    RANDOM = "random"


LEAST_SAME_ROOT_CONTROLS = 3


@dataclass(frozen=True)
class Readings:
    """The readings of one root, `[readings]` each: anchor position, kind, H and NLL without and with the chunk, copy length."""

    position: npt.NDArray[np.int32]
    kind: npt.NDArray[np.object_]
    entropy: Floats
    nll: Floats
    entropy_with: Floats
    nll_with: Floats
    copy_len: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Verdicts:
    """One root's readings, judged, `[readings]` each.

    Attributes:
        gain: (H - H') / H, a ratio.
        excess_gain: gain minus the median gain of the controls at the same anchor; NaN without any control.
        passes: which readings pass, by the name of the rule.
        accepted: retrieved readings that pass the configured rule: the dependencies.
    """

    gain: Floats
    excess_gain: Floats
    passes: Mapping[str, Bools]
    accepted: Bools

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of judged readings by name, in the order of `verdict_columns`."""
        values = [self.gain, self.excess_gain, *(self.passes[name] for name in RULES), self.accepted]
        return dict(zip(verdict_columns(), values, strict=True))


def verdict_columns() -> dict[str, str]:
    """Return the names and SQL types of the columns that a verdict adds to readings."""
    passes = {record.column: "BOOLEAN" for record in RULES.values()}
    return {"gain": "DOUBLE", "excess_gain": "DOUBLE", **passes, "accepted": "BOOLEAN"}


def judge(readings: Readings, rule: Rule) -> Verdicts:
    """Apply every rule to every reading, controls included, so that their pass rates can be compared (FDR)."""
    gain = (readings.entropy - readings.entropy_with) / readings.entropy
    excess = gain - control_medians(readings.position, readings.kind, gain)
    measures = Measures(gain, excess, readings.nll - readings.nll_with, readings.copy_len)
    passes = {name: record.passes(rule, measures) for name, record in RULES.items()}
    return Verdicts(gain, excess, passes, passes[rule.rule] & (readings.kind == ReadingKind.RETRIEVED))


def first_unmet(rule: Rule, measures: Measures) -> npt.NDArray[np.str_]:
    """Name per reading the first condition of the configured rule that it does not meet; "" if it meets all."""
    conditions = RULES[rule.rule].conditions
    unmet = [~condition.is_met(rule, measures) for condition in conditions]
    return np.select(unmet, [condition.name for condition in conditions], default="")


def control_medians(position: npt.NDArray[np.int32], kind: npt.NDArray[np.object_], gain: Floats) -> Floats:
    """Median gain of the controls at each reading's anchor, the reading itself left out.

    Same-root controls, or the random ones where fewer than three same-root controls are left; NaN where neither exists.
    """
    medians = np.full(len(gain), np.nan)
    for anchor in np.unique(position):
        here = np.flatnonzero(position == anchor)
        same_root = here[kind[here] == ReadingKind.SAME_ROOT]
        random = here[kind[here] == ReadingKind.RANDOM]
        for reading in here.tolist():
            controls = same_root[same_root != reading]
            if len(controls) < LEAST_SAME_ROOT_CONTROLS:
                controls = random[random != reading]
            if len(controls):
                medians[reading] = np.median(gain[controls])
    return medians
