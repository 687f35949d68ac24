"""Runs of one number in a row's `segment`: which tokens may attend to each other. Pure numpy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

PADDING = -1


def spans(segment: npt.NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """(start, end) of each run of one number in `[length]`, end exclusive, padding too: they cover it in order."""
    edges = np.flatnonzero(np.diff(segment)) + 1
    return list(pairwise([0, *edges.tolist(), len(segment)]))


def runs(segment: npt.NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """The same without padding: `indices` of an MDS sample."""
    return [(start, end) for start, end in spans(segment) if segment[start] != PADDING]
