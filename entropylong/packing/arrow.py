"""Rows of a bucket -> groups and document runs, and sequences -> rows, with Arrow's buffers in place of copies of token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, TypeVar, cast

import pyarrow as pa

from entropylong.packing.document_runs import DocumentRun
from entropylong.packing.groups import ContextChunk, Dependency, Group
from entropylong.packing.sequences import PackedSequence, Piece

T = TypeVar("T")

# What a chunk may be to a root: the attributes of a group.
USES = ("contexts", "fillers", "capped")


def groups_of(table: pa.Table) -> Iterator[Group]:
    """Groups of rows (root_id, input_ids, dependencies, and chunks by their use)."""
    for batch in table.to_batches():
        links = _of_rows(batch["dependencies"], Dependency, [field.name for field in fields(Dependency)])
        chunks = {use: _of_rows(batch[use], lambda *chunk: chunk, ["chunk_id", "chunk_ids"]) for use in USES}
        for row, (name, root) in enumerate(zip(batch["root_id"].to_pylist(), _values(batch["input_ids"]), strict=True)):
            gains: dict[int, float] = {}
            first: dict[int, int] = {}
            for link in links[row]:
                gains[link.chunk_id] = max(link.gain, gains.get(link.chunk_id, link.gain))
                first[link.chunk_id] = min(link.position, first.get(link.chunk_id, link.position))
            contexts = tuple(ContextChunk(chunk, ids, gains[chunk], first[chunk]) for chunk, ids in chunks["contexts"][row])
            fillers, capped = (tuple(ContextChunk(chunk, ids, 0.0, 0) for chunk, ids in chunks[use][row]) for use in USES[1:])
            yield Group(name, root, contexts, tuple(links[row]), fillers, capped)


def document_runs_of(table: pa.Table) -> Iterator[tuple[DocumentRun, int]]:
    """Document runs of rows (document_run, pieces, room), each with the tokens of it to pack."""
    for batch in table.to_batches():
        pieces = _of_rows(batch["pieces"], Piece, [field.name for field in fields(Piece)])
        for name, room, mine in zip(batch["document_run"].to_pylist(), batch["room"].to_pylist(), pieces, strict=True):
            yield DocumentRun(name, tuple(mine)), room


def batches_of(
    packed: Iterable[PackedSequence], row: Callable[[PackedSequence], dict[str, Any]], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Sequences as rows, a batch each: what `row` gives of one, and its `input_ids` as they are."""

    def batch(sequence: PackedSequence) -> pa.RecordBatch:
        one = pa.RecordBatch.from_pylist([row(sequence)], schema=others)
        ids = pa.ListArray.from_arrays(pa.array([0, len(sequence.input_ids)], pa.int32()), pa.array(sequence.input_ids))
        return pa.RecordBatch.from_arrays([one[name] if name in others.names else ids for name in schema.names], schema=schema)

    others = pa.schema([field for field in schema if field.name != "input_ids"])
    return map(batch, packed)


def _of_rows(lists: pa.ListArray, make: Callable[..., T], names: Sequence[str]) -> list[list[T]]:
    """Of each list of structs what is made of their fields, by the names in order."""
    ends = lists.offsets.to_numpy()
    structs = lists.values.slice(int(ends[0]), int(ends[-1] - ends[0]))
    made = list(map(make, *(_values(structs.field(name)) for name in names)))
    return [made[start:end] for start, end in pairwise((ends - ends[0]).tolist())]


def _values(column: pa.Array) -> list[Any]:
    """Values as Python objects; of lists of ids each as a slice of the buffer."""
    if not pa.types.is_list(column.type):
        return cast("list[Any]", column.to_pylist())
    ids = column.values.to_numpy(zero_copy_only=True)
    return [ids[start:end] for start, end in pairwise(column.offsets.to_numpy().tolist())]
