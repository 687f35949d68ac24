"""Screens: a cheaper reading proposes which candidates the exact model shall confirm. Not exact, off by default. Pure torch.

`left_window`: the exact model reads the chunk with only the last tokens of the root before its anchors. Its baseline is that of
Stage 1, so its gain is a cautious one. What a screen costs in recall is measured on roots that are read exactly all the same
(`calibration.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropylong.entropy.engine import entropy_at
from entropylong.models.causal_lm import CausalLM
from entropylong.utils.hashing import share_threshold, xxhash64

LEFT_WINDOW = "left_window"

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Screen:
    """The keys of `verify.screen`.

    Attributes:
        kind: left_window.
        min_gain: a candidate is proposed if its gain is that large at one of the anchors that retrieved it.
        window: tokens of the root before the first of these anchors.
        sample: share of roots that are measured exactly besides, to know the screen's recall.
        seed: chooses them.
    """

    kind: str
    min_gain: float
    window: int
    sample: float
    seed: int

    def is_sample(self, root_id: str) -> bool:
        """Whether a root is held out: screened, and measured exactly whatever the screen says."""
        return xxhash64(self.seed, "screen", root_id) <= share_threshold(self.sample)


@dataclass(frozen=True)
class Candidate:
    """A candidate to screen: ids of its root and chunk, the positions that retrieved it (ascending), and H of Stage 1 there."""

    root_ids: Ints
    chunk_ids: Ints
    positions: Ints
    entropy: Floats


def screen_gains(
    screen: Screen, model: CausalLM, candidates: Sequence[Candidate], separator_ids: Sequence[int], batch_tokens: int
) -> list[Floats]:
    """The screen's gain at each candidate's positions, `[positions]` each.

    Args:
        screen: which screen.
        model: the exact model.
        candidates: what to screen.
        separator_ids: what joins chunk and root.
        batch_tokens: tokens of a forward batch.
    """
    starts = [max(0, int(c.positions[0]) - screen.window) for c in candidates]
    with_chunk = _read(model, candidates, starts, separator_ids, batch_tokens)
    return [(c.entropy - after) / c.entropy for c, after in zip(candidates, with_chunk, strict=True)]


def _read(
    model: CausalLM, candidates: Sequence[Candidate], starts: Sequence[int], separator_ids: Sequence[int], batch_tokens: int
) -> list[Floats]:
    sequences, positions = [], []
    for candidate, start in zip(candidates, starts, strict=True):
        front = np.array([*model.prefix, *candidate.chunk_ids.tolist(), *separator_ids], np.int32)
        sequences.append(np.concatenate([front, candidate.root_ids[start:]]))
        positions.append(candidate.positions + np.int32(len(front) - start))
    return [r.entropy.astype(np.float64) for r in entropy_at(model, sequences, positions, batch_tokens=batch_tokens)]
