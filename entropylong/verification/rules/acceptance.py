"""From raw measurements to verdicts: gains, controls, and what each acceptance rule says of them. Pure numpy.

A *cell* is one (anchor, chunk) reading of a root. Its kind is `retrieved` (the anchor retrieved the chunk), `same_root`
(another anchor of the root did) or `random`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.verification.rules import RULES
from entropylong.verification.rules.base import Bools, Floats, Measures, Rule

RETRIEVED, SAME_ROOT, RANDOM = "retrieved", "same_root", "random"
LEAST_SAME_ROOT_CONTROLS = 3


@dataclass(frozen=True)
class Cells:
    """The readings of one root, `[cells]` each: anchor position, kind, H and NLL without and with the chunk, copy length."""

    position: npt.NDArray[np.int32]
    kind: npt.NDArray[np.object_]
    entropy: Floats
    nll: Floats
    entropy_with: Floats
    nll_with: Floats
    copy_len: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Verdicts:
    """One root's cells, judged, `[cells]` each.

    Attributes:
        gain: (H - H') / H, a ratio.
        excess_gain: gain minus the median gain of the controls at the same anchor; NaN without any control.
        passes: which cells pass, by the name of the rule.
        accepted: retrieved cells that pass the configured rule: the dependencies.
    """

    gain: Floats
    excess_gain: Floats
    passes: Mapping[str, Bools]
    accepted: Bools

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of judged cells by name, in the order of `verdict_columns`."""
        values = [self.gain, self.excess_gain, *(self.passes[name] for name in RULES), self.accepted]
        return dict(zip(verdict_columns(), values, strict=True))


def verdict_columns() -> dict[str, str]:
    """Return the names and SQL types of the columns that a verdict adds to cells."""
    passes = {record.column: "BOOLEAN" for record in RULES.values()}
    return {"gain": "DOUBLE", "excess_gain": "DOUBLE", **passes, "accepted": "BOOLEAN"}


def judge(cells: Cells, rule: Rule) -> Verdicts:
    """Apply every rule to every cell, controls included, so that their pass rates can be compared (FDR)."""
    gain = (cells.entropy - cells.entropy_with) / cells.entropy
    excess = gain - control_medians(cells.position, cells.kind, gain)
    measures = Measures(gain, excess, cells.nll - cells.nll_with, cells.copy_len)
    passes = {name: record.passes(rule, measures) for name, record in RULES.items()}
    return Verdicts(gain, excess, passes, passes[rule.rule] & (cells.kind == RETRIEVED))


def first_unmet(rule: Rule, measures: Measures) -> npt.NDArray[np.str_]:
    """Name per cell the first condition of the configured rule that it does not meet; "" if it meets all."""
    asked = RULES[rule.rule].conditions
    unmet = [~condition.is_met(rule, measures) for condition in asked]
    return np.select(unmet, [condition.name for condition in asked], default="")


def control_medians(position: npt.NDArray[np.int32], kind: npt.NDArray[np.object_], gain: Floats) -> Floats:
    """Median gain of the controls at each cell's anchor, the cell itself left out.

    Same-root controls, or the random ones where fewer than three same-root controls are left; NaN where neither exists.
    """
    medians = np.full(len(gain), np.nan)
    for anchor in np.unique(position):
        here = np.flatnonzero(position == anchor)
        same_root = here[kind[here] == SAME_ROOT]
        random = here[kind[here] == RANDOM]
        for cell in here.tolist():
            controls = same_root[same_root != cell]
            if len(controls) < LEAST_SAME_ROOT_CONTROLS:
                controls = random[random != cell]
            if len(controls):
                medians[cell] = np.median(gain[controls])
    return medians
