"""What a screen consists of: the keys of `verify.screen`, a cheaper reading and its cost, the record of a screen. Pure torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from entropylong.models.causal_lm import CausalLM
from entropylong.utils.hashing import share_threshold, xxhash64

if TYPE_CHECKING:
    from entropylong.config import Config

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Screen:
    """The keys of `verify.screen`.

    Attributes:
        kind: the name of a screen.
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

    @classmethod
    def of(cls, config: Config) -> Screen:
        """Take them from a config."""
        own = config.verify.screen
        return cls(own.kind, own.min_gain, own.window, own.sample, config.seed)

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


class ScreenReading(ABC):
    """A cheaper reading of candidates. Its gain at a position is (H - H') / H.

    Attributes:
        needs_model: whether it runs the causal LM, one pass per candidate. If not, a plan and a run's figures count no cost for it.
    """

    needs_model: ClassVar[bool] = True

    @abstractmethod
    def about(self, screen: Screen) -> str:
        """Name the reading in a plan."""

    def gains(
        self, screen: Screen, model: CausalLM, candidates: Sequence[Candidate], separator_ids: Sequence[int], batch_tokens: int
    ) -> list[Floats]:
        """Return the gain at each candidate's positions, `[positions]` each.

        Args:
            screen: the keys.
            model: the exact model.
            candidates: what to screen.
            separator_ids: what joins chunk and root.
            batch_tokens: tokens of a forward batch.
        """
        before = self.baseline(screen, model, candidates, separator_ids, batch_tokens)
        after = self.with_chunk(screen, model, candidates, separator_ids, batch_tokens)
        return [(h - h_with) / h for h, h_with in zip(before, after, strict=True)]

    def baseline(
        self, screen: Screen, model: CausalLM, candidates: Sequence[Candidate], separator_ids: Sequence[int], batch_tokens: int
    ) -> list[Floats]:
        """Return H at each candidate's positions, `[positions]` each: that of Stage 1, if a screen does not say otherwise."""
        return [candidate.entropy for candidate in candidates]

    @abstractmethod
    def with_chunk(
        self, screen: Screen, model: CausalLM, candidates: Sequence[Candidate], separator_ids: Sequence[int], batch_tokens: int
    ) -> list[Floats]:
        """Return H' at each candidate's positions, `[positions]` each: the entropy with the chunk in front."""

    @abstractmethod
    def tokens(self, screen: Screen, front: Any, end: Any, span: Any, least: Callable[[Any, Any], Any]) -> Any:
        """Return the tokens that the pass of a candidate forwards: numbers for a plan, Spark columns for the figures of a run.

        Args:
            screen: the keys.
            front: tokens in front of the root.
            end: tokens of the root up to the last position that retrieved the candidate.
            span: tokens of the root from the first of these positions to the last.
            least: the smaller of two such values.
        """


@dataclass(frozen=True)
class ScreenRecord:
    """The record of a screen.

    Attributes:
        name: the value of `verify.screen.kind`.
        reading: what it proposes candidates by; None where every candidate is measured.
        limit: what someone who uses the sequences should know of it; None where there is nothing to know.
    """

    name: str
    reading: ScreenReading | None
    limit: str | None
