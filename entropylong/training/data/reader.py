"""Rows of sealed feeds in their global order, read by Petastorm and counted against the manifest.

Petastorm gets an explicit list of files and one worker: more workers, or its own sharding, would give another order at another
world size. What it gives is counted: it must be the rows that the manifest states, no more and no fewer.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.errors import FeedError
from entropylong.training.data.manifest import FeedManifest, check_file, read_manifest
from entropylong.training.data.order import GlobalOrder, Place, rank_share

# Files that one Petastorm reader is opened on.
_FILES_A_READER = 256


@dataclass(frozen=True)
class FeedRow:
    """A training sequence, all arrays `[length]`.

    Attributes:
        loss_mask: 1 where a token counts in the loss.
        segment: which tokens may attend to each other: those of one number, ascending; -1 on padding.
        nll_drop: at verified anchors, how much likelier their contexts make the token, in nats; 0 elsewhere.
    """

    sequence_id: int
    input_ids: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.int32]
    segment: npt.NDArray[np.int32]
    nll_drop: npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeedState:
    """How far a run has come: saved with its checkpoint.

    Attributes:
        seed: of the order.
        rows: rows of the global order that are consumed.
        feeds: identities of the feeds, so that a run never goes on with other rows.
        weights: of the feeds.
    """

    seed: int
    rows: int
    feeds: tuple[str, ...]
    weights: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FeedState:
        return cls(int(record["seed"]), int(record["rows"]), tuple(record["feeds"]), tuple(float(w) for w in record["weights"]))


class Feed:
    """The rows of one data-parallel rank, batch after batch.

    Args:
        folders: sealed feeds.
        weights: share of rows of each.
        seed: of the order.
        batch: sequences of a global batch.
        rank, ranks: of this process among the data-parallel ones.
        rows: of the global order that were consumed before.

    Raises:
        FeedError: a feed is damaged, or `ranks` does not divide the batch.
    """

    def __init__(
        self, folders: Sequence[Path], weights: Sequence[float], seed: int, batch: int, rank: int = 0, ranks: int = 1, rows: int = 0
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.manifests = [read_manifest(folder) for folder in self.folders]
        self.order = GlobalOrder(self.manifests, weights, seed)
        self.share, self.batch = rank_share(batch, rank, ranks), batch
        self.state = FeedState(seed, rows, tuple(m.identity for m in self.manifests), tuple(map(float, weights)))
        self._checked: set[Path] = set()

    def resume(self, state: FeedState) -> None:
        """Go on after the rows that a state has consumed.

        Raises:
            FeedError: the state is of other feeds, weights or another seed.
        """
        if (state.seed, state.feeds, state.weights) != (self.state.seed, self.state.feeds, self.state.weights):
            raise FeedError(
                "the checkpoint was made with other feeds, weights or another seed: it cannot go on with these; "
                "give the same feeds, or begin a new run in another folder"
            )
        self.state = state

    def __iter__(self) -> Iterator[list[FeedRow]]:
        """Endless: the rank's rows of each global batch. `state` counts a batch as consumed once the next one is asked for."""
        mine = self._rows(self._places())
        while True:
            yield list(islice(mine, len(self.share)))
            self.state = FeedState(self.state.seed, self.state.rows + self.batch, self.state.feeds, self.state.weights)

    def _places(self) -> Iterator[Place]:
        everyone = self.order.places(self.state.rows)
        while True:
            batch = list(islice(everyone, self.batch))
            yield from (batch[n] for n in self.share)

    def _rows(self, places: Iterator[Place]) -> Iterator[FeedRow]:
        """Rows at these places. Of each feed, a reader runs ahead over the files that come next."""
        readers = [_FileRows(self, number) for number in range(len(self.folders))]
        ahead: deque[Place] = deque()
        while True:
            # So many rows are looked at ahead that each feed's next files are known.
            while len(ahead) < _FILES_A_READER:
                place = next(places)
                ahead.append(place)
                readers[place.feed].expect(place)
            place = ahead.popleft()
            yield readers[place.feed].row(place)

    def checked(self, feed: int, file: int) -> Path:
        """A file of a feed, its content compared once a process."""
        manifest: FeedManifest = self.manifests[feed]
        path = self.folders[feed] / manifest.files[file].name
        if path not in self._checked:
            check_file(self.folders[feed], manifest.files[file])
            self._checked.add(path)
        return path


class _FileRows:
    """Files of one feed in the order in which they are wanted, each read once a visit."""

    def __init__(self, feed: Feed, number: int) -> None:
        self._feed, self._number = feed, number
        self._visits: deque[tuple[int, int]] = deque()  # (epoch, file), not yet opened
        self._last: tuple[int, int] | None = None
        self._current: tuple[int, int] | None = None
        self._rows: list[FeedRow] = []
        self._files: Iterator[tuple[tuple[int, int], list[FeedRow]]] = iter(())

    def expect(self, place: Place) -> None:
        """A row that will be asked for, after those that were announced before."""
        if (visit := (place.epoch, place.file)) != self._last:
            self._visits.append(visit)
            self._last = visit

    def row(self, place: Place) -> FeedRow:
        """The row at the next place."""
        while self._current != (place.epoch, place.file):
            file = next(self._files, None)
            if file is None:
                visits = [self._visits.popleft() for _ in range(min(len(self._visits), _FILES_A_READER))]
                self._files = self._read(visits)
                file = next(self._files)
            self._current, self._rows = file
        return self._rows[place.row]

    def _read(self, visits: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], list[FeedRow]]]:
        # Of its old pyarrow interfaces, at each row group.
        warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
        from petastorm import make_batch_reader

        # A file may be wanted twice, in two epochs: Petastorm reads each list of different files.
        for _, part in groupby(visits, key=lambda visit: visit[0]):
            files = list(part)
            # Not as_uri(): Petastorm takes a %40 for the name of a file.
            urls = [f"file://{self._feed.checked(self._number, file).absolute()}" for _, file in files]
            with make_batch_reader(
                urls, reader_pool_type="thread", workers_count=1, results_queue_size=4, shuffle_row_groups=False, num_epochs=1
            ) as reader:
                groups = iter(reader)
                for visit in files:
                    yield visit, self._of_file(groups, visit[1])
                if next(groups, None) is not None:
                    raise FeedError(f"{self._feed.folders[self._number]}: Petastorm gave more rows than the manifest states")

    def _of_file(self, groups: Iterator[Any], number: int) -> list[FeedRow]:
        manifest, folder = self._feed.manifests[self._number], self._feed.folders[self._number]
        file, rows = manifest.files[number], list[FeedRow]()
        while len(rows) < file.rows and (group := next(groups, None)) is not None:
            arrays = (group.input_ids, group.loss_mask, group.segment, group.nll_drop)
            rows += [FeedRow(int(i), *row) for i, *row in zip(group.sequence_id, *arrays, strict=True)]
        if len(rows) != file.rows or any(len(row.input_ids) != manifest.length for row in rows):
            raise FeedError(
                f"{folder / file.name}: Petastorm gave {len(rows)} rows, the manifest states {file.rows} of {manifest.length} "
                "tokens; nothing is skipped: remove the folder to make the feed again"
            )
        return rows
