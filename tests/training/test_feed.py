"""A sealed feed gives each row once an epoch, in one global order at any number of ranks; what is damaged is refused."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylong.errors import FeedError
from entropylong.training.data.manifest import FeedFile, FeedManifest, read_manifest, write_manifest
from entropylong.training.data.order import GlobalOrder, rank_share
from entropylong.training.data.reader import Feed, FeedState
from entropylong.training.data.rows import content_hash, feed_table, write_file
from entropylong.training.data.seal import seal_feed
from entropylong.training.data.sources import _sequence_rows
from entropylong.utils.hashing import file_sha256
from tests.conftest import OpenRunner

LENGTH = 16


def make_feed(folder: Path, file_rows: list[int], first: int = 0, length: int = LENGTH) -> Path:
    """A feed whose row n holds the id first + n in all places."""
    folder.mkdir(parents=True)
    files, number = [], first
    for index, rows in enumerate(file_rows):
        ids = list(range(number, number + rows))
        number += rows
        arrays = [
            (
                np.full(length, i),
                np.array([1] * (length - 1) + [i % 2]),
                np.repeat([0, 1], [i % 3, length - i % 3]),
                np.full(length, i / 2),
            )
            for i in ids
        ]
        files.append(write_file(folder, index, feed_table(ids, arrays)))
    write_manifest(folder, FeedManifest("sequences", "f", 1, length, tuple(files)))
    return folder


def ids(feed: Feed, batches: int) -> list[list[int]]:
    return [[row.sequence_id for row in batch] for batch in islice(iter(feed), batches)]


def test_each_row_once_an_epoch_in_a_fresh_order(tmp_path: Path) -> None:
    folder = make_feed(tmp_path / "feed", [3, 5, 1, 3])
    feed = Feed([folder], [1.0], seed=7, batch=4)
    epochs = np.array(ids(feed, 9)).reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    other = Feed([folder], [1.0], seed=8, batch=4)
    assert np.array(ids(other, 3)).flatten().tolist() != epochs[0].tolist()
    (batch,) = islice(iter(Feed([folder], [1.0], seed=7, batch=4)), 1)
    for row in batch:
        assert row.input_ids.tolist() == [row.sequence_id] * LENGTH and row.loss_mask[-1] == row.sequence_id % 2
        assert (row.segment == 0).sum() == row.sequence_id % 3 and (row.nll_drop == row.sequence_id / 2).all()


def test_petastorm_gives_what_lies_at_the_places_of_the_order(tmp_path: Path) -> None:
    """The slow way: each place looked up in its file, over two feeds and several epochs of each."""
    folders = [make_feed(tmp_path / "a", [2, 3, 1]), make_feed(tmp_path / "b", [4, 1], first=100)]
    feed = Feed(folders, [2.0, 1.0], seed=3, batch=4)
    tables = [[pq.read_table(folder / file.name) for file in read_manifest(folder).files] for folder in folders]
    places = list(islice(feed.order.places(0), 40))
    assert {place.epoch for place in places} >= {0, 1, 2}
    for row, place in zip((row for batch in islice(iter(feed), 10) for row in batch), places, strict=True):
        expected = tables[place.feed][place.file].slice(place.row, 1).to_pylist()[0]
        assert row.sequence_id == expected["sequence_id"]
        for name in ("input_ids", "loss_mask", "segment", "nll_drop"):
            assert getattr(row, name).tolist() == expected[name], name


def test_a_feed_is_its_rows_not_its_files(tmp_path: Path) -> None:
    folder = make_feed(tmp_path / "feed", [3])
    table = pq.read_table(folder / "part-000000.parquet")
    pq.write_table(table, tmp_path / "other.parquet", compression="gzip", row_group_size=1)
    again = pq.read_table(tmp_path / "other.parquet")
    assert file_sha256(tmp_path / "other.parquet") != file_sha256(folder / "part-000000.parquet")
    assert content_hash(again) == content_hash(table) != content_hash(table.take([1, 0, 2]))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_same_global_batches_at_any_number_of_ranks(ranks: int, tmp_path: Path) -> None:
    """Seven rows an epoch: batches of eight go across epochs."""
    folder = make_feed(tmp_path / "feed", [2, 4, 1])
    whole = ids(Feed([folder], [1.0], seed=1, batch=8), 7)
    shares = [ids(Feed([folder], [1.0], seed=1, batch=8, rank=rank, ranks=ranks), 7) for rank in range(ranks)]
    assert [[i for share in shares for i in share[step]] for step in range(7)] == whole
    assert Counter(i for batch in whole for i in batch) == Counter(dict.fromkeys(range(7), 8))


def test_resume_gives_the_very_next_row_at_another_world_size(tmp_path: Path) -> None:
    folders = [make_feed(tmp_path / "a", [3, 3, 2]), make_feed(tmp_path / "b", [2, 1], first=100)]
    whole = ids(Feed(folders, [0.75, 0.25], seed=3, batch=4), 12)
    feed = Feed(folders, [0.75, 0.25], seed=3, batch=4)
    batches = iter(feed)
    assert [[row.sequence_id for row in next(batches)] for _ in range(5)] == whole[:5]
    next(batches)  # the sixth is under way: only five are done
    state = FeedState.from_json(feed.state.as_json())
    assert state.rows == 20
    ranks = [Feed(folders, [0.75, 0.25], seed=3, batch=4, rank=rank, ranks=2) for rank in (0, 1)]
    for rank in ranks:
        rank.resume(state)
    halves = [ids(rank, 7) for rank in ranks]
    assert [one + other for one, other in zip(*halves, strict=True)] == whole[5:]
    with pytest.raises(FeedError, match="other feeds, weights or another seed"):
        Feed(folders, [0.5, 0.5], seed=3, batch=4).resume(state)


def test_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = make_feed(tmp_path / "me@corp.com a+b,c=d é %41", [2, 1])
    assert sorted(ids(Feed([folder], [1.0], seed=0, batch=3), 1)[0]) == [0, 1, 2]
    with pytest.raises(FeedError, match="Petastorm splits paths at #"):
        read_manifest(make_feed(tmp_path / "a#b", [1]))


def test_weights_hold_at_every_moment(tmp_path: Path) -> None:
    folders = [make_feed(tmp_path / "long", [4, 4]), make_feed(tmp_path / "short", [5], first=100)]
    stream = [i for batch in ids(Feed(folders, [6, 4], seed=0, batch=5), 40) for i in batch]
    for n in range(1, len(stream) + 1):
        assert abs(sum(i < 100 for i in stream[:n]) - 0.6 * n) <= 1
    short = [i for i in stream if i >= 100]
    assert all(sorted(short[n : n + 5]) == list(range(100, 105)) for n in range(0, len(short), 5)), "each feed keeps its epochs"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 200), st.integers(0, 9)
)
def test_the_order_from_a_row_on_is_the_rest_of_the_whole(files: list[list[int]], start: int, seed: int) -> None:
    feeds = [FeedManifest("t", "f", 1, 8, tuple(FeedFile(f"part-{n:06d}.parquet", r, "", f"{k}{n}", 9) for n, r in enumerate(rows)))
             for k, rows in enumerate(files)]  # fmt: skip
    order = GlobalOrder(feeds, [1.0 + k for k in range(len(feeds))], seed)
    assert list(islice(order.places(start), 30)) == list(islice(order.places(0), start, start + 30))


def test_what_cannot_be_divided_or_mixed_is_told_first(tmp_path: Path) -> None:
    folder = make_feed(tmp_path / "feed", [3])
    with pytest.raises(FeedError, match=r"3 data-parallel ranks do not divide a batch of 8 sequences; take one of \[1, 2, 4, 8\]"):
        Feed([folder], [1.0], seed=0, batch=8, rank=0, ranks=3)
    assert [list(rank_share(8, r, 4)) for r in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(FeedError, match="rows of one length"):
        Feed([folder, make_feed(tmp_path / "other", [1], length=8)], [1, 1], seed=0, batch=2)
    with pytest.raises(FeedError, match="weight above zero"):
        Feed([folder], [0.0], seed=0, batch=2)


def test_damage_is_refused_by_name(tmp_path: Path) -> None:
    """A file cut short, one with other rows than stated, a manifest that leads elsewhere, a pickle for Petastorm."""
    folder = make_feed(tmp_path / "cut", [3, 3])
    path = folder / "part-000001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FeedError, match=r"part-000001\.parquet: missing, cut short or changed"):
        ids(Feed([folder], [1.0], seed=0, batch=6), 1)
    folder = make_feed(tmp_path / "fewer", [3])
    more = replace(read_manifest(folder).files[0], rows=4)
    write_manifest(folder, FeedManifest("t", "f", 1, LENGTH, (more,)))
    with pytest.raises(FeedError, match="Petastorm gave 3 rows, the manifest states 4"):
        ids(Feed([folder], [1.0], seed=0, batch=4), 1)
    write_manifest(folder, FeedManifest("t", "f", 1, LENGTH, (replace(more, name="../up.parquet"),)))
    with pytest.raises(FeedError, match="names no files, or files that are not a feed's"):
        read_manifest(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(FeedError, match="not readable"):
        read_manifest(folder)
    (folder / "_common_metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(FeedError, match="Petastorm would unpickle"):
        read_manifest(folder)
    with pytest.raises(FeedError, match="no sealed feed"):
        read_manifest(tmp_path)


def test_a_table_becomes_a_feed(finished: Path, open_runner: OpenRunner, tmp_path: Path) -> None:
    """Real Spark, real Delta: each sequence once, with its ids and its mask; the same files however the table is cut."""
    runner = open_runner(finished)
    value, version = runner.state.fingerprint("sequences") or "", runner.state.store.version("sequences")
    rows = runner.state.store.read_ok("sequences", value, version)
    facts = {"table": "sequences", "fingerprint": value, "version": version, "length": 1024}
    manifest = seal_feed(_sequence_rows(rows, None), tmp_path / "feed", **facts)  # type: ignore[arg-type]
    by_id = {row.sequence_id: row for row in rows.collect()}
    assert manifest.rows == len(by_id) > 1 and read_manifest(tmp_path / "feed") == manifest
    (batch,) = islice(iter(Feed([tmp_path / "feed"], [1.0], seed=0, batch=len(by_id))), 1)
    assert {row.sequence_id for row in batch} == set(by_id)
    for row in batch:
        assert row.input_ids.tolist() == by_id[row.sequence_id].input_ids
        mask = by_id[row.sequence_id].loss_mask
        assert row.loss_mask.tolist() == ([1] * 1024 if mask is None else list(mask))
    assert seal_feed(_sequence_rows(rows.repartition(5), None), tmp_path / "again", **facts) == manifest  # type: ignore[arg-type]
    with pytest.raises(FeedError, match="no sequence to train on"):
        seal_feed(_sequence_rows(rows.where("false"), None), tmp_path / "none", **facts)  # type: ignore[arg-type]
    with pytest.raises(FeedError, match="have another length than 512"):
        seal_feed(_sequence_rows(rows, None), tmp_path / "short", **{**facts, "length": 512})  # type: ignore[arg-type]
    assert not (tmp_path / "short").exists(), "half a feed has no name"
