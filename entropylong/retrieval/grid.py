"""Vectors on a grid of whole numbers, so that a score is the same number whatever computes it. Pure numpy.

A cosine of floats depends on the order of its sum, so on the size of a matrix product, its threads and its machine; two ways of
cutting one search would then rank near-equal chunks differently. Components rounded to 1/4,000 make every product and every
partial sum a whole number below 2^24, which float32 holds exactly: |sum of any part| <= |a| |b| <= 4,014^2 (Cauchy-Schwarz).
The price is a rounding of cosines by about 1e-4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SCALE = 4000
# The norm up to which sums stay exact.
MOST = 4095.0

Grid = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]


def to_grid(vectors: npt.NDArray[np.float16]) -> Grid:
    """L2-normalised vectors `[n, d]` in steps of 1/SCALE.

    Raises:
        ValueError: a vector is longer than 1.
    """
    grid = np.rint(vectors.astype(np.float32) * SCALE)
    if len(grid) and float(np.einsum("nd,nd->n", grid, grid, dtype=np.float64).max()) > MOST**2:
        raise ValueError("vectors must be L2-normalised")
    whole: Grid = grid.astype(np.int16)
    return whole


def from_bytes(stored: list[bytes]) -> npt.NDArray[np.float16]:
    """Vectors as the tables hold them (float16, little-endian) `[n, d]`."""
    flat: npt.NDArray[np.float16] = np.frombuffer(b"".join(stored), "<f2")
    return flat.reshape(len(stored), -1)


def grid_from_bytes(stored: list[bytes]) -> Grid:
    """Vectors as index_cells and query_cells hold them (the grid, int16, little-endian) `[n, d]`."""
    flat: Grid = np.frombuffer(b"".join(stored), "<i2")
    return flat.reshape(len(stored), -1)


def cosine(score: float) -> float:
    """The cosine that a score of two grid vectors stands for."""
    return float(score) / SCALE**2
