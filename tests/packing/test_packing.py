"""Packing: exact length, nothing split, nothing twice, roots last, the same result from any order of input."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entropylong.packing.arrow import USES, batches_of, document_runs_of, groups_of
from entropylong.packing.groups import ContextChunk, Dependency, Group, Ids, fit_group, order_contexts
from entropylong.packing.sequences import PackRule, pack_groups, plan_bins
from entropylong.utils.hashing import xxhash64

pytestmark = pytest.mark.runtime

LENGTH = 200


def same(token: int, number: int) -> Ids:
    """So many times the same token."""
    return np.full(number, token, np.int32)


def chunk_ids(chunk: int) -> Ids:
    """A chunk's ids follow from its number: the same chunk is the same tokens in every group."""
    return same(1000 + chunk, 3 + xxhash64(chunk) % 25)


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    all_groups = []
    for number in range(draw(st.integers(0, 8))):
        chunks = draw(st.lists(st.integers(0, 12), unique=True, max_size=6))
        root = same(10 + number, draw(st.integers(1, 60)))
        contexts, dependencies = [], []
        for c in chunks:
            positions = draw(st.lists(st.integers(0, len(root) - 1), unique=True, min_size=1, max_size=3))
            gains = [draw(st.floats(0.4, 1)) for _ in positions]
            dependencies += [Dependency(c, p, g, None) for p, g in zip(positions, gains, strict=True)]
            contexts.append(ContextChunk(c, chunk_ids(c), max(gains), min(positions)))
        fillers = tuple(ContextChunk(c, chunk_ids(c), 0.0, 0) for c in range(13, 16))
        all_groups.append(Group(f"root-{number}", root, tuple(contexts), tuple(dependencies), fillers))
    return all_groups


def rule(layout: str, order: str, filler: str, separator: int, seed: int = 1) -> PackRule:
    return PackRule(LENGTH, layout, order, filler, seed, "verified", (7,), tuple([8] * separator), 9)


settings_ = {
    "layout": st.sampled_from(["spread", "grouped"]),
    "order": st.sampled_from(["shuffle", "anchor_order"]),
    "filler": st.sampled_from(["none", "rejected", "random"]),
    "separator": st.integers(0, 2),
}


@settings(max_examples=200)
@given(all_groups=groups(), **settings_)
def test_sequences_keep_every_promise(all_groups: list[Group], layout: str, order: str, filler: str, separator: int) -> None:
    packing = rule(layout, order, filler, separator)
    packed = pack_groups(all_groups, packing)
    by_id = {g.root_id: g for g in all_groups}
    placed = [s.root_id for q in packed for s in q.segments if s.kind == "root"]
    fits = [fit_group(g, LENGTH - 1, separator) for g in all_groups]
    assert sorted(placed) == sorted(g.root_id for g in fits if g.contexts and g.tokens(separator) <= LENGTH - 1)
    for sequence in packed:
        assert len(sequence.input_ids) == LENGTH
        rebuilt: list[int] = []
        for s in sequence.segments:
            assert s.start == len(rebuilt) < s.end
            special_ids = {"start": [7], "separator": [8] * separator, "pad": [9] * (s.end - s.start)}
            ids = special_ids.get(s.kind) or (by_id[s.root_id].root_ids if s.kind == "root" else chunk_ids(s.chunk_id)).tolist()
            rebuilt += ids[: s.end - s.start] if s.kind == "filler" else ids
            assert s.end == len(rebuilt)
        assert rebuilt == sequence.input_ids.tolist()
        chunks = [s.chunk_id for s in sequence.segments if s.kind in ("context", "filler")]
        assert len(chunks) == len(set(chunks))
        body = [s for s in sequence.segments if s.kind in ("context", "root", "filler")]
        assert body[-1].kind == "root"
        if layout == "spread":
            kinds = [s.kind for s in body]
            assert kinds == sorted(kinds, key=lambda k: k == "root")
        for d in sequence.dependencies:
            context = next(s for s in sequence.segments if s.kind == "context" and s.chunk_id == d.chunk_id)
            root = next(s for s in sequence.segments if s.kind == "root" and s.root_id == d.root_id)
            assert context.end == d.context_end <= root.start <= d.anchor < root.end
            assert any(o.position == d.anchor - root.start and o.chunk_id == d.chunk_id for o in by_id[d.root_id].dependencies)
        mask = sequence.loss_mask
        padded = sum(s.end - s.start for s in sequence.segments if s.kind == "pad")
        assert (mask is None) == (padded == 0) and (mask is None or mask.count(0) == padded)
        counted = {(d.root_id, d.chunk_id) for d in sequence.dependencies}
        here = {s.root_id for s in sequence.segments if s.kind == "root"}
        assert counted == {(g.root_id, c.chunk_id) for g in fits if g.root_id in here for c in g.contexts}


@given(all_groups=groups(), shuffle=st.randoms(use_true_random=False), **settings_)
def test_any_order_of_input_gives_the_same(
    all_groups: list[Group], shuffle: random.Random, layout: str, order: str, filler: str, separator: int
) -> None:
    mixed = list(all_groups)
    shuffle.shuffle(mixed)
    packing = rule(layout, order, filler, separator)
    one, other = pack_groups(all_groups, packing), pack_groups(mixed, packing)
    key = lambda s: s.sequence_id  # noqa: E731
    for a, b in zip(sorted(one, key=key), sorted(other, key=key), strict=True):
        assert a.input_ids.tolist() == b.input_ids.tolist() and a.segments == b.segments and a.dependencies == b.dependencies


@pytest.mark.parametrize("layout", ["spread", "grouped"])
def test_two_chunks_of_one_text_stand_once(layout: str) -> None:
    text, other = same(5, 6), same(6, 4)
    one = Group(
        "a",
        same(1, 9),
        (ContextChunk(3, text, 0.5, 2), ContextChunk(2, text, 0.7, 4)),
        (Dependency(3, 2, 0.5, None), Dependency(2, 4, 0.7, None)),
    )
    two = Group(
        "b",
        same(2, 9),
        (ContextChunk(4, text, 0.6, 1),),
        (Dependency(4, 1, 0.6, None),),
        (ContextChunk(9, text, 0, 0), ContextChunk(8, other, 0, 0)),
    )
    (sequence,) = pack_groups([two, one], rule(layout, "shuffle", "rejected", 1))
    assert [s.chunk_id for s in sequence.segments if s.kind == "context"] == [2]
    assert [s.chunk_id for s in sequence.segments if s.kind == "filler"] == [8]
    links = {(d.root_id, d.chunk_id, round(d.gain, 1)) for d in sequence.dependencies}
    assert links == {("a", 2, 0.5), ("a", 2, 0.7), ("b", 2, 0.6)}


def test_the_seed_decides_the_order() -> None:
    contexts = tuple(ContextChunk(c, same(c, 1), 0.5, 0) for c in range(8))
    group = Group("r", same(1, 1), contexts, ())
    orders = {tuple(c.chunk_id for c in order_contexts(group, "shuffle", seed).contexts) for seed in range(20)}
    assert len(orders) > 10
    by_anchor = order_contexts(
        Group("r", same(1, 1), tuple(ContextChunk(c, same(c, 1), 0.5, 9 - c) for c in range(8)), ()), "anchor_order", 1
    )
    assert [c.chunk_id for c in by_anchor.contexts] == list(range(7, -1, -1))


def test_a_group_too_long_loses_its_lowest_gains() -> None:
    contexts = tuple(ContextChunk(c, same(c, 50), c / 10, 0) for c in range(1, 6))
    group = Group("r", same(0, 50), contexts, tuple(Dependency(c, 3, c / 10, None) for c in range(1, 6)))
    fitted = fit_group(group, 200, 2)
    assert [c.chunk_id for c in fitted.contexts] == [4, 5] and {d.chunk_id for d in fitted.dependencies} == {4, 5}


@given(all_groups=groups(), separator=st.integers(0, 2))
def test_best_fit_decreasing(all_groups: list[Group], separator: int) -> None:
    """Against the rule by the book: every bin searched, the tightest that fits taken."""
    fits = [g for g in all_groups if g.contexts and g.tokens(separator) <= LENGTH]
    slow: list[list[Group]] = []
    for group in sorted(fits, key=lambda g: (-g.tokens(separator), xxhash64(g.root_id), g.root_id)):
        space = {
            i: LENGTH - sum(m.tokens(separator) for m in members) - separator * (len(members) - 1) - separator
            for i, members in enumerate(slow)
        }
        open_ = [i for i, left in space.items() if left >= group.tokens(separator)]
        if open_:
            slow[min(open_, key=lambda i: (space[i], i))].append(group)
        else:
            slow.append([group])
    assert plan_bins(fits, LENGTH, separator) == slow


@pytest.mark.parametrize("layout", ["spread", "grouped"])
def test_a_shared_chunk_stands_once_before_both_roots(layout: str) -> None:
    two_groups = [
        Group(f"r{n}", same(n, 5), (ContextChunk(1, same(50, 4), 0.5, 0), ContextChunk(2 + n, same(60 + n, 4), 0.5, 0)),
              (Dependency(1, 2, 0.5, None), Dependency(2 + n, 3, 0.5, None)))
        for n in range(2)
    ]  # fmt: skip
    (sequence,) = pack_groups(two_groups, rule(layout, "shuffle", "none", 1))
    assert sum(s.chunk_id == 1 for s in sequence.segments) == 1
    assert {d.root_id for d in sequence.dependencies if d.chunk_id == 1} == {"r0", "r1"}
    assert all(d.distance >= 0 for d in sequence.dependencies)


def test_rows_of_arrow_are_groups_and_document_runs() -> None:
    """Against the same rows as Python objects; of batches that are slices, too."""
    rng = random.Random(3)

    def chunks(numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [{"chunk_id": n, "chunk_ids": chunk_ids(n).tolist()} for n in numbers]

    rows = []
    for number in range(7):
        used = rng.sample(range(20), rng.randint(1, 4))
        links = [
            {"chunk_id": c, "position": rng.randrange(9), "gain": rng.random(), "excess_gain": None} for c in used for _ in "ab"
        ]
        others = {"fillers": chunks(range(20, 20 + number % 3)), "capped": chunks([30] * (number % 2))}
        rows.append(
            {"root_id": f"r{number}", "input_ids": [number] * (number + 3), "dependencies": links, "contexts": chunks(used)}
            | others
        )
    chunk = pa.list_(pa.struct([("chunk_id", pa.int64()), ("chunk_ids", pa.list_(pa.int32()))]))
    link = pa.struct([("chunk_id", pa.int64()), ("position", pa.int32()), ("gain", pa.float64()), ("excess_gain", pa.float64())])
    fields = [("root_id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("dependencies", pa.list_(link))]
    table = pa.Table.from_pylist(rows, pa.schema([*fields, *((use, chunk) for use in USES)]))
    for part, expected in ((table, rows), (pa.concat_tables([table.slice(0, 2), table.slice(3, 3)]), rows[:2] + rows[3:6])):
        for group, row in zip(groups_of(part), expected, strict=True):
            assert (group.root_id, group.root_ids.tolist()) == (row["root_id"], row["input_ids"])
            assert [vars(d) for d in group.dependencies] == row["dependencies"]
            for use in USES:
                mine = [{"chunk_id": c.chunk_id, "chunk_ids": c.ids.tolist()} for c in getattr(group, use)]
                assert mine == row[use]
            for context in group.contexts:
                served = [d for d in group.dependencies if d.chunk_id == context.chunk_id]
                assert context.gain == max(d.gain for d in served) and context.first_anchor == min(d.position for d in served)

    piece = {"kind": "root", "root_id": "r", "chunk_id": None}
    runs = [{"document_run": f"d{n}", "room": n, "pieces": [piece | {"ids": [n, k]} for k in range(n)]} for n in range(4)]
    pieces = pa.struct([("kind", pa.string()), ("root_id", pa.string()), ("chunk_id", pa.int64()), ("ids", pa.list_(pa.int32()))])
    schema = pa.schema([("document_run", pa.string()), ("room", pa.int32()), ("pieces", pa.list_(pieces))])
    made = list(document_runs_of(pa.Table.from_pylist(runs, schema).slice(1)))
    assert [(run.name, room) for run, room in made] == [("d1", 1), ("d2", 2), ("d3", 3)]
    assert [[vars(p) | {"ids": p.ids.tolist()} for p in run.pieces] for run, _ in made] == [row["pieces"] for row in runs[1:]]


def test_sequences_are_rows_of_arrow() -> None:
    groups_ = [
        Group(f"r{n}", same(n, 60), (ContextChunk(n, same(9, 50), 0.5, 0),), (Dependency(n, 2, 0.5, None),)) for n in range(5)
    ]
    packed = pack_groups(groups_, rule("spread", "shuffle", "none", 1))
    schema = pa.schema([("sequence_id", pa.int64()), ("input_ids", pa.list_(pa.int32())), ("n", pa.int32())])
    table = pa.Table.from_batches(
        batches_of(packed, lambda s: {"sequence_id": s.sequence_id, "n": len(s.segments)}, schema), schema
    )
    assert table.to_pylist() == [
        {"sequence_id": s.sequence_id, "input_ids": s.input_ids.tolist(), "n": len(s.segments)} for s in packed
    ]
    assert len(packed) == table.num_rows == 5
