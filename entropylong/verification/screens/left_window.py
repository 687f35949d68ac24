"""The exact model reads the chunk with only the last tokens of the root before its anchors.

Its baseline is that of Stage 1, so its gain is a cautious one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from entropylong.entropy.engine import entropy_at
from entropylong.models.causal_lm import CausalLM
from entropylong.verification.screens.base import Candidate, Floats, Screen, ScreenReading, ScreenRecord


class LeftWindow(ScreenReading):
    """Read `verify.screen.window` tokens of the root before the first position."""

    def about(self, screen: Screen) -> str:
        """Name the reading in a plan."""
        return f"left window of {screen.window} tokens"

    def with_chunk(
        self, screen: Screen, model: CausalLM, candidates: Sequence[Candidate], separator_ids: Sequence[int], batch_tokens: int
    ) -> list[Floats]:
        """Forward chunk, separator and window."""
        sequences, positions = [], []
        for candidate in candidates:
            start = max(0, int(candidate.positions[0]) - screen.window)
            front = np.array([*model.prefix, *candidate.chunk_ids.tolist(), *separator_ids], np.int32)
            sequences.append(np.concatenate([front, candidate.root_ids[start:]]))
            positions.append(candidate.positions + np.int32(len(front) - start))
        return [r.entropy.astype(np.float64) for r in entropy_at(model, sequences, positions, batch_tokens=batch_tokens)]

    def tokens(self, screen: Screen, front: Any, end: Any, span: Any, least: Callable[[Any, Any], Any]) -> Any:
        """Count the front, and of the root at most the window and what follows it."""
        return front + least(end, span + screen.window)


RECORD = ScreenRecord(
    name="left_window",
    reading=LeftWindow(),
    limit="A cheaper reading chose which candidates were measured: some dependencies were missed.",
)
