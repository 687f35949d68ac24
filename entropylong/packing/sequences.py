"""Groups -> sequences of exactly `length` tokens: best-fit decreasing, two layouts, three fillers. Pure Python and numpy.

The first screen: `pack_groups` is what a bucket calls. `plan_bins` decides which groups share a sequence, `assemble` writes
its tokens. A chunk stands at most once in a sequence, before every root that depends on it; roots come last.
"""

from __future__ import annotations

import gc
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from entropylong.packing.groups import ContextChunk, Group, Ids, fit_group, merge_copies, order_contexts, text_key
from entropylong.utils.hashing import xxhash64


class SegmentKind(StrEnum):
    """What a span of a sequence holds."""

    START = "start"
    CONTEXT = "context"
    ROOT = "root"
    SEPARATOR = "separator"
    FILLER = "filler"
    PAD = "pad"


@dataclass(frozen=True)
class PackRule:
    """The keys of `pack`, what goes between and around the pieces, and what the recipe does with packed sequences, if anything."""

    length: int
    layout: str
    order: str
    filler: str
    seed: int
    recipe: str
    start_ids: tuple[int, ...]
    separator_ids: tuple[int, ...]
    pad_id: int
    swap: Swap | None = None


@dataclass(frozen=True)
class Segment:
    """A span [start, end) of a sequence and what it holds."""

    kind: str
    root_id: str | None
    chunk_id: int | None
    start: int
    end: int


@dataclass(frozen=True)
class PlacedDependency:
    """A dependency in its sequence: absolute anchor and context end, and the tokens between them."""

    root_id: str
    chunk_id: int
    anchor: int
    context_end: int
    gain: float
    excess_gain: float | None

    @property
    def distance(self) -> int:
        return self.anchor - self.context_end


@dataclass(frozen=True)
class PackedSequence:
    """A training sequence: `input_ids` `[length]`, its segments (which cover it exactly) and its dependencies."""

    sequence_id: int
    input_ids: Ids
    segments: tuple[Segment, ...]
    dependencies: tuple[PlacedDependency, ...]

    def ids_of(self, segment: Segment) -> Ids:
        """The ids of one of its segments: a slice of `input_ids`."""
        return self.input_ids[segment.start : segment.end]

    @property
    def loss_mask(self) -> bytes | None:
        """One byte a token, 0 on padding; None where every token counts."""
        if not any(s.kind == SegmentKind.PAD for s in self.segments):
            return None
        mask = np.ones(len(self.input_ids), np.uint8)
        for segment in self.segments:
            if segment.kind == SegmentKind.PAD:
                mask[segment.start : segment.end] = 0
        return mask.tobytes()


# (packed sequences, of each its roots with all that was verified for them, the rule) -> sequences in their place.
Swap = Callable[[Sequence[PackedSequence], Sequence[Sequence[Group]], PackRule], list[PackedSequence]]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Packing makes hundreds of thousands of small objects and no cycle among them: to look for some takes a third of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def pack_groups(groups: Iterable[Group], rule: PackRule) -> list[PackedSequence]:
    """Pack one bucket. The result depends on the set of groups and the rule, never on their order.

    Args:
        groups: roots with their contexts; a group without contexts is left out.
        rule: recipe, length, layout, order, filler, the ids around pieces, and the swap at the end, if there is one.
    """
    separator, capacity = len(rule.separator_ids), rule.length - len(rule.start_ids)
    single = merge_copies(groups)
    fitted = [fit_group(order_contexts(g, rule.order, rule.seed), capacity, separator) for g in single]
    usable = [g for g in fitted if g.contexts and g.tokens(separator) <= capacity]
    bins = plan_bins(usable, capacity, separator)
    packed = [assemble(members, rule) for members in bins]
    if rule.swap is None:
        return packed
    whole = {group.root_id: group for group in single}
    return rule.swap(packed, [[whole[group.root_id] for group in members] for members in bins], rule)


def plan_bins(groups: Sequence[Group], capacity: int, separator: int) -> list[list[Group]]:
    """Best-fit decreasing over group lengths: each group goes where it leaves the least space. A group is never split.

    A bin's fill counts a chunk that two of its groups share once for each, so the plan is on the safe side; `assemble`
    writes such a chunk once and leaves the difference to the filler.
    """
    sized = [(group.tokens(separator), group) for group in groups]
    sized.sort(key=lambda each: (-each[0], xxhash64(each[1].root_id), each[1].root_id))
    numbers = best_fit([size for size, _ in sized], capacity, separator)
    return [[sized[n][1] for n in members] for members in numbers]


def best_fit(sizes: Sequence[int], capacity: int, gap: int) -> list[list[int]]:
    """Put sizes into bins, each where it leaves the least space.

    Args:
        sizes: in the order in which they are placed; decreasing gives good fills. None above the capacity.
        capacity: of a bin.
        gap: what comes between two members of a bin.

    Returns:
        Indices into `sizes`, bin by bin.
    """
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (space left, bin), ascending: the first that fits is the best fit
    for number, size in enumerate(sizes):
        at = bisect_left(spaces, (size + gap, -1))
        if at < len(spaces):
            space, chosen = spaces.pop(at)
            bins[chosen].append(number)
            insort(spaces, (space - size - gap, chosen))
        else:
            bins.append([number])
            insort(spaces, (capacity - size, len(bins) - 1))
    return bins


@dataclass(frozen=True, eq=False)
class Piece:
    """What a segment will hold: a root, a context or a filler, with its ids."""

    kind: str
    root_id: str | None
    chunk_id: int | None
    ids: Ids


def assemble(members: Sequence[Group], rule: PackRule) -> PackedSequence:
    """One sequence of groups that fit it."""
    ordered = sorted(members, key=lambda g: (xxhash64(rule.seed, g.root_id), g.root_id))
    pieces = _lay_out(ordered, rule)
    used = len(rule.start_ids) + sum(len(p.ids) for p in pieces) + len(rule.separator_ids) * (len(pieces) - 1)
    ids, segments = write(_with_filler(pieces, ordered, rule, rule.length - used), rule)
    return PackedSequence(
        sequence_id=xxhash64(rule.seed, rule.recipe, *(g.root_id for g in ordered)),
        input_ids=ids,
        segments=segments,
        dependencies=_place(ordered, segments),
    )


def write(pieces: Sequence[Piece], rule: PackRule) -> tuple[Ids, tuple[Segment, ...]]:
    """The ids `[length]` and segments of a sequence: start token, pieces joined by the separator, padding up to the length."""
    ids = np.full(rule.length, rule.pad_id, np.int32)
    segments: list[Segment] = []
    end = 0

    def add(kind: str, tokens: Ids, root_id: str | None = None, chunk_id: int | None = None) -> None:
        nonlocal end
        if len(tokens):
            segments.append(Segment(kind, root_id, chunk_id, end, end + len(tokens)))
            ids[end : end + len(tokens)] = tokens
            end += len(tokens)

    separator = np.array(rule.separator_ids, np.int32)
    add(SegmentKind.START, np.array(rule.start_ids, np.int32))
    for number, piece in enumerate(pieces):
        if number:
            add(SegmentKind.SEPARATOR, separator)
        add(piece.kind, piece.ids, piece.root_id, piece.chunk_id)
    add(SegmentKind.PAD, ids[end:])
    return ids, tuple(segments)


def _lay_out(groups: Sequence[Group], rule: PackRule) -> list[Piece]:
    """Pieces in order: `grouped` is group after group, `spread` all contexts first, then all roots. Each chunk once."""
    pieces: list[Piece] = []
    placed_ids: set[int] = set()

    def add_contexts(contexts: Iterable[ContextChunk], root_id: str | None) -> None:
        for context in contexts:
            if context.chunk_id not in placed_ids:
                placed_ids.add(context.chunk_id)
                pieces.append(Piece(SegmentKind.CONTEXT, root_id, context.chunk_id, context.ids))

    if rule.layout == "spread":
        owner = {c.chunk_id: g.root_id for g in reversed(groups) for c in g.contexts}
        contexts = {c.chunk_id: c for g in groups for c in g.contexts}.values()
        shuffled = list(contexts)
        if rule.order == "shuffle":
            shuffled.sort(key=lambda c: (xxhash64(rule.seed, c.chunk_id), c.chunk_id))
        for context in shuffled:
            add_contexts([context], owner[context.chunk_id])
        pieces += [Piece(SegmentKind.ROOT, g.root_id, None, g.root_ids) for g in groups]
    else:
        for group in groups:
            add_contexts(group.contexts, group.root_id)
            pieces.append(Piece(SegmentKind.ROOT, group.root_id, None, group.root_ids))
    return pieces


def _with_filler(pieces: list[Piece], groups: Sequence[Group], rule: PackRule, space: int) -> list[Piece]:
    """Filler chunks of the sequence's roots into the remaining space, the last one cut to it; before the first root."""
    if rule.filler == "none":
        return pieces
    pool = [c for g in groups for c in g.fillers]
    salt = xxhash64(rule.seed, *(g.root_id for g in groups))
    placed_texts = {text_key(p.ids) for p in pieces}
    chosen: list[Piece] = []
    for chunk in sorted(pool, key=lambda c: (xxhash64(salt, c.chunk_id), c.chunk_id)):
        room = space - len(rule.separator_ids)
        if room <= 0:
            break
        if (key := text_key(chunk.ids)) in placed_texts:
            continue
        placed_texts.add(key)
        ids = chunk.ids[:room]
        chosen.append(Piece(SegmentKind.FILLER, None, chunk.chunk_id, ids))
        space = room - len(ids)
    if rule.layout == "grouped":
        return chosen + pieces
    roots_from = next(i for i, p in enumerate(pieces) if p.kind == SegmentKind.ROOT)
    front = sorted(pieces[:roots_from] + chosen, key=lambda p: (xxhash64(rule.seed, p.chunk_id or 0), p.chunk_id or 0))
    return (front if rule.order == "shuffle" else chosen + pieces[:roots_from]) + pieces[roots_from:]


def _place(groups: Sequence[Group], segments: Sequence[Segment]) -> tuple[PlacedDependency, ...]:
    context_end = {s.chunk_id: s.end for s in segments if s.kind == SegmentKind.CONTEXT}
    root_start = {s.root_id: s.start for s in segments if s.kind == SegmentKind.ROOT}
    return tuple(
        PlacedDependency(
            root_id=group.root_id,
            chunk_id=d.chunk_id,
            anchor=root_start[group.root_id] + d.position,
            context_end=context_end[d.chunk_id],
            gain=d.gain,
            excess_gain=d.excess_gain,
        )
        for group in groups
        for d in sorted(group.dependencies, key=lambda d: (d.position, d.chunk_id))
    )
