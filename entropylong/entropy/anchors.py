"""Anchors: positions of a root where the model is uncertain (paper, Stage 1). Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AnchorSet:
    """Anchors of one root.

    Attributes:
        positions: 0-based token positions, ascending, `[anchors]`.
        mean, std, threshold: of the entropy over eligible positions, in nats; NaN where there are none.
    """

    positions: npt.NDArray[np.int32]
    mean: float
    std: float
    threshold: float


def find_anchors(
    entropy: Floats,
    *,
    alpha: float,
    min_position: int,
    min_gap: int = 1,
    max_per_root: int | None = None,
    eligible: npt.NDArray[np.bool_] | None = None,
) -> AnchorSet:
    """Positions with H_t > mean + alpha * std, strictly (paper, eq. 2-3), over the document's eligible positions.

    Args:
        entropy: H of every position `[tokens]`, nats; NaN where the model could not predict (position 0 without a start token).
        alpha: how far above the mean, in population standard deviations.
        min_position: first eligible position.
        min_gap: of anchors closer than this many tokens the highest stays (non-maximum suppression).
        max_per_root: keeps only the highest.
        eligible: further mask of positions that may become anchors `[tokens]`; mean and std ignore it.

    Returns:
        The anchors; none where std is 0 or fewer than 2 positions are eligible, never NaN positions.
    """
    values = np.asarray(entropy, dtype=np.float64)
    counted = ~np.isnan(values)
    counted[:min_position] = False
    none = np.zeros(0, np.int32)
    if counted.sum() < 2:
        return AnchorSet(none, float("nan"), float("nan"), float("nan"))
    mean, std = float(values[counted].mean()), float(values[counted].std())
    threshold = mean + alpha * std
    if std == 0.0:
        return AnchorSet(none, mean, std, threshold)
    above = counted & (np.where(counted, values, -np.inf) > threshold)
    if eligible is not None:
        above &= eligible
    # Highest first, the earlier of two equals first: greedy suppression and the cut to max_per_root share this order.
    positions = np.flatnonzero(above)
    ranked = positions[np.lexsort((positions, -values[positions]))]
    anchors: list[int] = []
    is_suppressed = np.zeros(len(values), dtype=bool)
    for position in ranked.tolist():
        if max_per_root is not None and len(anchors) == max_per_root:
            break
        if is_suppressed[position]:
            continue
        anchors.append(position)
        is_suppressed[max(0, position - min_gap + 1) : position + min_gap] = True
    return AnchorSet(np.array(sorted(anchors), np.int32), mean, std, threshold)
