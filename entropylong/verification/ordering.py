"""`verify.order: learned` (beyond the paper): which candidates of a root are measured first. Pure numpy; scikit-learn fits.

A logistic model on what is known of a candidate before its pass, fitted on a few roots that are measured whole. It orders the waves
of a budget and decides nothing else: what is a dependency, the exact model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.retrieval.windows import window_ids
from entropylong.verification.planning import Anchor

# Best score, best rank and largest H among the anchors that retrieved the chunk; largest share of such an anchor's query window
# whose tokens the chunk holds.
FEATURES = ("score", "rank", "entropy", "overlap")
# With fewer accepted (or fewer refused) examples than this a fit would be noise.
LEAST_EXAMPLES = 5

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """A fitted model, a number for each of `FEATURES`.

    Attributes:
        mean, scale: by which features are standardised.
        weights: of the standardised features; all 0 where nothing was learned, which leaves the order of ranks.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]

    def log_odds(self, features: Sequence[Sequence[float]]) -> Floats:
        """How likely each candidate is accepted, up to a constant: `[candidates, 4]` -> `[candidates]`."""
        table = np.asarray(features, np.float64).reshape(-1, len(FEATURES))
        return np.asarray((table - np.array(self.mean)) / np.array(self.scale) @ np.array(self.weights))

    def stated(self) -> dict[str, Any]:
        """As it is pinned, and read again by `Order(**stated)`."""
        return {name: list(values) for name, values in asdict(self).items()}


# What was learned from nothing: the order of ranks.
BY_RANK = Order((0.0,) * len(FEATURES), (1.0,) * len(FEATURES), (0.0,) * len(FEATURES))


def features(anchors: Sequence[Anchor], root_ids: Ints, chunk_ids: Ints, window: tuple[int, str]) -> tuple[float, ...]:
    """`FEATURES` of a candidate.

    Args:
        anchors: of its pair; those that another chunk retrieved do not count, and one at least retrieved it.
        root_ids, chunk_ids: of root and chunk.
        window: `query.window` and `query.side`, of which its query was made.
    """
    width, side = window
    retrieved = [anchor for anchor in anchors if anchor.rank is not None]
    held = set(chunk_ids.tolist())
    overlap = 0.0
    for anchor in retrieved:
        asked = set(window_ids(root_ids.tolist(), anchor.position, window=width, side=side))
        overlap = max(overlap, len(asked & held) / max(1, len(asked)))
    return (
        max(anchor.score or 0.0 for anchor in retrieved),
        float(min(anchor.rank or 1 for anchor in retrieved)),
        max(anchor.entropy for anchor in retrieved),
        overlap,
    )


def fit_order(table: Floats, accepted: npt.NDArray[np.bool_]) -> Order:
    """A logistic model on examples.

    Args:
        table: `FEATURES` of candidates that were measured `[examples, 4]`.
        accepted: whether the chunk was accepted at an anchor of the root `[examples]`.
    """
    if min(int(accepted.sum()), int((~accepted).sum())) < LEAST_EXAMPLES:
        return BY_RANK
    from sklearn.linear_model import LogisticRegression

    mean, spread = table.mean(axis=0), table.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)  # a feature that never varies says nothing
    fitted = LogisticRegression().fit((table - mean) / scale, accepted)
    return Order(tuple(mean.tolist()), tuple(scale.tolist()), tuple(fitted.coef_[0].tolist()))
