"""The global order of a training run's rows: a function of seed, feeds and weights, of no number of ranks. Pure numpy.

Row n of a run is the same at any world size, so a run that resumes at another one sees the same batches. Each feed gives each
of its rows once an epoch, in a fresh order each epoch; several feeds take turns by their weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropylong.errors import FeedError
from entropylong.training.data.manifest import FeedManifest
from entropylong.utils.hashing import xxhash64


@dataclass(frozen=True)
class Place:
    """Where a row of the global order lies: which feed, its epoch there, file and row of the file."""

    feed: int
    epoch: int
    file: int
    row: int


class GlobalOrder:
    """The endless order of rows over one or several feeds.

    Args:
        feeds: their manifests.
        weights: share of rows of each, in any unit.
        seed: another seed, another order.

    Raises:
        FeedError: the feeds' rows differ in length, or a weight is not above zero.
    """

    def __init__(self, feeds: Sequence[FeedManifest], weights: Sequence[float], seed: int) -> None:
        if len({feed.length for feed in feeds}) != 1:
            lengths = ", ".join(f"{feed.table} {feed.length}" for feed in feeds)
            raise FeedError(f"feeds of one run have rows of one length, these differ: {lengths}")
        if len(weights) != len(feeds) or min(weights) <= 0:
            raise FeedError(f"needs a weight above zero for each of {len(feeds)} feeds, has {list(weights)}")
        self.feeds, self.seed = tuple(feeds), seed
        self._orders: dict[int, tuple[int, npt.NDArray[np.int32]]] = {}
        self._shares = [weight / sum(weights) for weight in weights]

    def places(self, start: int) -> Iterator[Place]:
        """The places of the rows from `start` on."""
        for feed, number in self._turns(start):
            epoch, index = divmod(number, self.feeds[feed].rows)
            file, row = self._epoch(feed, epoch)[index]
            yield Place(feed, epoch, int(file), int(row))

    def _epoch(self, feed: int, epoch: int) -> npt.NDArray[np.int32]:
        cached = self._orders.get(feed)
        if cached is None or cached[0] != epoch:
            manifest = self.feeds[feed]
            cached = (epoch, epoch_order(manifest.identity, [file.rows for file in manifest.files], self.seed, epoch))
            self._orders[feed] = cached
        return cached[1]

    def _turns(self, start: int) -> Iterator[tuple[int, int]]:
        """(feed, how many rows it gave before) from row `start` on: the feed that is furthest behind its share is next."""
        counts = [0] * len(self.feeds)
        total = 0
        if len(counts) == 1:
            counts[0] = total = start
        while True:
            feed = max(range(len(counts)), key=lambda f: (self._shares[f] * (total + 1) - counts[f], -f))
            if total >= start:
                yield feed, counts[feed]
            counts[feed] += 1
            total += 1


def epoch_order(identity: str, file_rows: Sequence[int], seed: int, epoch: int) -> npt.NDArray[np.int32]:
    """(file, row) of each row of an epoch, `[rows, 2]`: files in hash order, and the rows of each file in hash order.

    Rows of a file stay together, so that a file is read once an epoch; files are small for that reason.
    """
    files = sorted(range(len(file_rows)), key=lambda file: xxhash64(seed, epoch, identity, file))
    return np.array(
        [
            (file, row)
            for file in files
            for row in sorted(range(file_rows[file]), key=lambda row: xxhash64(seed, epoch, identity, file, row))
        ],
        np.int32,
    )


def rank_share(batch: int, rank: int, ranks: int) -> range:
    """Which rows of a global batch a data-parallel rank takes: a contiguous share.

    Raises:
        FeedError: the batch cannot be divided.
    """
    if batch % ranks:
        fitting = [n for n in range(1, batch + 1) if batch % n == 0]
        raise FeedError(f"{ranks} data-parallel ranks do not divide a batch of {batch} sequences; take one of {fitting}")
    return range(rank * batch // ranks, (rank + 1) * batch // ranks)
