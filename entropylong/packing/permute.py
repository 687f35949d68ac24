"""The permuted arm: the verified sequences with their contexts swapped, so that only the link is broken. Pure Python and numpy.

Two contexts of nearly equal length change places where neither comes to a root that it was verified for, nor to a copy of itself.
The longer one is cut to the room of the shorter: roots, places and tokens stay as they are, whatever the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entropylong.packing.groups import Group, Ids
from entropylong.packing.sequences import PackedSequence, PackRule, Piece, SegmentKind, write
from entropylong.utils.hashing import xxhash64

# Contexts of the next lengths that are tried as partners.
TRIES = 2000


def permute(packed: Sequence[PackedSequence], groups: Sequence[Sequence[Group]], rule: PackRule) -> list[PackedSequence]:
    """The same sequences with their contexts swapped (`swapped`) and no dependency.

    Args:
        packed: verified sequences.
        groups: of each, its roots with all that was verified for them.
        rule: as they were packed.
    """
    contexts = [[(s.chunk_id or 0, q.ids_of(s)) for s in q.segments if s.kind == SegmentKind.CONTEXT] for q in packed]
    fillers = [{s.chunk_id or 0 for s in q.segments if s.kind == SegmentKind.FILLER} for q in packed]
    sequences = []
    for sequence, placed in zip(packed, swapped(contexts, groups, fillers), strict=True):
        at = {p.number: Piece(SegmentKind.CONTEXT, None, p.chunk_id, p.ids) for p in placed}
        numbers = iter(range(len(sequence.segments)))
        pieces = [
            at.get(next(numbers)) if s.kind == SegmentKind.CONTEXT else Piece(s.kind, s.root_id, s.chunk_id, sequence.ids_of(s))
            for s in sequence.segments
            if s.kind in (SegmentKind.CONTEXT, SegmentKind.ROOT, SegmentKind.FILLER)
        ]
        ids, segments = write([piece for piece in pieces if piece is not None], rule)
        sequences.append(PackedSequence(sequence.sequence_id, ids, segments, ()))
    return sequences


@dataclass(frozen=True, eq=False)
class Placed:
    """A context's place: its sequence, which of its contexts, what stands there."""

    sequence: int
    number: int
    chunk_id: int
    ids: Ids


def swapped(
    sequences: Sequence[Sequence[tuple[int, Ids]]], groups: Sequence[Sequence[Group]], fillers: Sequence[set[int]]
) -> list[list[Placed]]:
    """What stands at each place of a context once they are swapped.

    Args:
        sequences: of each, its contexts in order: chunk id and ids.
        groups: of each, its roots with all that was verified for them, packed or not; copies merged.
        fillers: of each, what else stands in it.

    Returns:
        Of each sequence, its contexts in their order, each at most as long as what stood there. A context that finds no partner,
        as every other one is a copy of what its sequence holds or was verified for it, is left out.
    """
    linked = [{c.chunk_id for group in members for c in (*group.contexts, *group.capped)} for members in groups]
    held = [{chunk for chunk, _ in contexts} | other for contexts, other in zip(sequences, fillers, strict=True)]
    places = [Placed(s, n, chunk, ids) for s, contexts in enumerate(sequences) for n, (chunk, ids) in enumerate(contexts)]
    places.sort(key=lambda p: (len(p.ids), xxhash64(p.chunk_id, p.sequence), p.chunk_id, p.sequence))
    by_sequence: list[list[Placed]] = [[] for _ in sequences]
    free = [True] * len(places)

    def may_move(moved: Placed, to: int) -> bool:
        return moved.chunk_id not in linked[to] and moved.chunk_id not in held[to]

    for first, here in enumerate(places):
        if not free[first]:
            continue
        for second in range(first + 1, min(first + TRIES, len(places))):
            there = places[second]
            if free[second] and may_move(here, there.sequence) and may_move(there, here.sequence):
                free[first] = free[second] = False
                room = len(here.ids)
                for to, moved in ((here, there), (there, here)):
                    by_sequence[to.sequence].append(Placed(to.sequence, to.number, moved.chunk_id, moved.ids[:room]))
                    held[to.sequence].add(moved.chunk_id)
                break
    return [sorted(placed, key=lambda p: p.number) for placed in by_sequence]
