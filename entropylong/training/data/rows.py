"""Rows of a feed as Arrow: of packed sequences, and of documents or conversations packed to a length. Pure numpy and Arrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from entropylong.packing.sequences import SegmentKind, best_fit
from entropylong.training.data.manifest import FeedFile
from entropylong.training.data.segments import PADDING
from entropylong.utils.hashing import file_sha256, xxhash64

# Flat lists alone: Petastorm drops nested ones.
COLUMNS = pa.schema(
    [
        ("sequence_id", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.int32())),
        ("segment", pa.list_(pa.int32())),
        ("nll_drop", pa.list_(pa.float32())),
    ]
)
DDL = "sequence_id BIGINT, input_ids ARRAY<INT>, loss_mask ARRAY<INT>, segment ARRAY<INT>, nll_drop ARRAY<FLOAT>"

# Rows of a file are read together; of a row group they are held together.
FILE_TOKENS, GROUP_ROWS = 1 << 20, 2

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def feed_table(ids: Sequence[int], rows: Sequence[Arrays]) -> pa.Table:
    """Rows (input_ids, loss_mask, segment, nll_drop) under their sequence ids, as `COLUMNS`."""
    columns = [pa.array(ids, pa.int64())]
    for place, field in enumerate(list(COLUMNS)[1:]):
        arrays = [row[place] for row in rows]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
        flat = np.concatenate(arrays) if arrays else np.zeros(0)
        columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, field.type.value_type)))
    return pa.Table.from_arrays(columns, schema=COLUMNS)


def write_file(folder: Path, number: int, rows: pa.Table) -> FeedFile:
    """Rows as `COLUMNS` -> file `number` of a feed; what its manifest states of it."""
    path = folder / f"part-{number:06d}.parquet"
    pq.write_table(rows, f"{path}.part", row_group_size=GROUP_ROWS, compression="zstd")
    Path(f"{path}.part").replace(path)
    return FeedFile(path.name, len(rows), file_sha256(path), content_hash(rows), pc.max(pc.list_flatten(rows["input_ids"])).as_py())


def content_hash(rows: pa.Table) -> str:
    """Hash of rows as `COLUMNS`, of their values alone: another writer's file of the same rows has it too."""
    digest = hashlib.sha256()
    for column in (chunked.combine_chunks() for chunked in rows.columns):
        flat = column.flatten() if pa.types.is_list(column.type) else column
        digest.update(flat.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def sequence_arrays(
    input_ids: npt.NDArray[np.int32],
    segments: Iterable[dict[str, Any]],
    loss_mask: bytes | None,
    drops: Iterable[dict[str, Any]],
) -> Arrays:
    """A row of `sequences` as a feed holds it: attention goes across its pieces, so all but its padding is one segment.

    Args:
        input_ids: `[length]`.
        segments: of the row.
        loss_mask: of the row; None counts every token.
        drops: verified readings (anchor, nll_drop); of several at an anchor the largest counts.
    """
    mask = np.ones(len(input_ids), np.int32) if loss_mask is None else np.frombuffer(loss_mask, np.uint8).astype(np.int32)
    segment = np.zeros(len(input_ids), np.int32)
    for piece in segments:
        if piece["kind"] == SegmentKind.PAD:
            segment[piece["start"] : piece["end"]] = PADDING
    largest: dict[int, float] = {}
    for drop in drops:
        largest[drop["anchor"]] = max(largest.get(drop["anchor"], drop["nll_drop"]), drop["nll_drop"])
    nll_drop = np.zeros(len(input_ids), np.float32)
    nll_drop[list(largest)] = list(largest.values())
    return input_ids, mask, segment, nll_drop


@dataclass(frozen=True)
class Item:
    """A document or a conversation as token ids, and which of them are targets (None: all)."""

    item_id: int
    input_ids: npt.NDArray[np.int32]
    targets: npt.NDArray[np.uint8] | None = None


def pack_items(items: Iterable[Item], length: int, pad_id: int, seed: int) -> tuple[list[int], list[Arrays]]:
    """Items -> sequences of exactly `length` tokens, best fit first; each item is a segment of its own, none is cut.

    Args:
        items: each of at most `length` tokens. The result depends on the set of them, not on their order.
        length: tokens of a sequence.
        pad_id: what stands at the end, masked.
        seed: of the sequences' ids and of the order within a sequence.

    Returns:
        Sequence ids, and (input_ids, loss_mask, segment, nll_drop) of each.
    """
    ordered = sorted(items, key=lambda item: (-len(item.input_ids), item.item_id))
    ids: list[int] = []
    rows: list[Arrays] = []
    for numbers in best_fit([len(item.input_ids) for item in ordered], length, 0):
        members = sorted((ordered[n] for n in numbers), key=lambda item: (xxhash64(seed, item.item_id), item.item_id))
        row = (
            np.full(length, pad_id, np.int32),
            np.zeros(length, np.int32),
            np.full(length, PADDING, np.int32),
            np.zeros(length, np.float32),
        )
        start = 0
        for number, item in enumerate(members):
            end = start + len(item.input_ids)
            row[0][start:end] = item.input_ids
            row[1][start:end] = 1 if item.targets is None else item.targets
            row[1][start] = 0  # nothing before it that it could be told from
            row[2][start:end] = number
            start = end
        ids.append(xxhash64(seed, *(item.item_id for item in members)))
        rows.append(row)
    return ids, rows
