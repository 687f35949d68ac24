"""From raw measurements to verdicts: gains, controls, and the two acceptance rules. Pure numpy.

A *cell* is one (anchor, chunk) reading of a root. Its kind is `retrieved` (the anchor retrieved the chunk), `same_root`
(another anchor of the root did) or `random`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RETRIEVED, SAME_ROOT, RANDOM = "retrieved", "same_root", "random"
LEAST_SAME_ROOT_CONTROLS = 3
# Conditions of acceptance, and which of them each rule asks for.
GAIN, COPY, EXCESS, NLL = "gain", "copy", "excess", "nll"
PAPER = (GAIN, COPY)
SPECIFIC = (GAIN, COPY, EXCESS, NLL)
# In which order people are told which one refuses a cell.
ASKED = (GAIN, EXCESS, NLL, COPY)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """The keys of `accept`. Rule "paper" uses epsilon alone; "specific" all; the copy limit holds under both."""

    rule: str
    epsilon: float
    min_excess: float
    min_nll_drop: float
    max_copy_tokens: int | None


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
        passes_paper: gain > epsilon (and within the copy limit).
        passes_specific: our rule (and within the copy limit).
        accepted: retrieved cells that pass the configured rule: the dependencies.
    """

    gain: Floats
    excess_gain: Floats
    passes_paper: Bools
    passes_specific: Bools
    accepted: Bools


def judge(cells: Cells, rule: Rule) -> Verdicts:
    """Apply both rules to every cell, controls included, so that their pass rates can be compared (FDR)."""
    gain = (cells.entropy - cells.entropy_with) / cells.entropy
    excess = gain - control_medians(cells.position, cells.kind, gain)
    met = conditions(rule, gain, excess, cells.nll - cells.nll_with, cells.copy_len)
    passes_paper, passes_specific = (np.logical_and.reduce([met[name] for name in needed]) for needed in (PAPER, SPECIFIC))
    chosen = passes_paper if rule.rule == "paper" else passes_specific
    return Verdicts(gain, excess, passes_paper, passes_specific, chosen & (cells.kind == RETRIEVED))


def conditions(rule: Rule, gain: Floats, excess: Floats, nll_drop: Floats, copy_len: npt.NDArray[np.int32]) -> dict[str, Bools]:
    """Which cells meet each condition of the rules, `[cells]` each, by the names in `PAPER` and `SPECIFIC`."""
    return {
        GAIN: gain > rule.epsilon,
        COPY: np.ones(len(gain), bool) if rule.max_copy_tokens is None else copy_len <= rule.max_copy_tokens,
        # NaN compares false: without any control nothing can be shown to be specific.
        EXCESS: excess > rule.min_excess,
        NLL: nll_drop > rule.min_nll_drop,
    }


def first_unmet(
    rule: Rule, gain: Floats, excess: Floats, nll_drop: Floats, copy_len: npt.NDArray[np.int32]
) -> npt.NDArray[np.str_]:
    """Of each cell the first condition of the configured rule that it does not meet; "" if it meets all. In the order `ASKED`."""
    met = conditions(rule, gain, excess, nll_drop, copy_len)
    asked = [name for name in ASKED if name in (PAPER if rule.rule == "paper" else SPECIFIC)]
    return np.select([~met[name] for name in asked], asked, default="")


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
