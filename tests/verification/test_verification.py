"""Copy lengths, planning and the acceptance rule against slow, obvious references."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropylong.verification.copying import copy_lengths
from entropylong.verification.planning import Anchor, plan_root
from entropylong.verification.rules.acceptance import ReadingKind, Readings, judge
from entropylong.verification.rules.base import Rule

pytestmark = pytest.mark.runtime

tokens = st.lists(st.integers(0, 3), max_size=14)


@given(chunk=tokens, root=tokens)
def test_copy_length_is_the_longest_shared_span_over_the_position(chunk: list[int], root: list[int]) -> None:
    positions = np.arange(len(root), dtype=np.int32)
    got = copy_lengths(np.array(chunk, np.int32), np.array(root, np.int32), positions)
    shared = {tuple(chunk[i:j]) for i in range(len(chunk)) for j in range(i + 1, len(chunk) + 1)}
    for t in range(len(root)):
        spans = [j - i for i in range(t + 1) for j in range(t + 1, len(root) + 1) if tuple(root[i:j]) in shared]
        assert got[t] == max(spans, default=0)


@given(
    anchors=st.lists(st.integers(0, 30), unique=True, min_size=1),
    data=st.data(),
    random=st.lists(st.integers(200, 210), unique=True, max_size=3),
)
def test_plan_reads_each_pair_once(anchors: list[int], data: st.DataObject, random: list[int]) -> None:
    chunks = st.lists(st.integers(100, 110), unique=True, max_size=4)
    hits = data.draw(st.dictionaries(st.sampled_from(anchors), chunks, max_size=5))
    scored = {position: [(chunk, 1 / (chunk + position)) for chunk in ids] for position, ids in hits.items()}
    bare_anchors = [Anchor(t, t / 7, t / 9) for t in anchors]
    for scope in ("all", "retrieved"):
        pairs = plan_root(bare_anchors, scored, random, scope)
        assert len({p.chunk_id for p in pairs}) == len(pairs)
        candidates = [p for p in pairs if p.kind == "candidate"]
        assert {p.chunk_id for p in candidates} == {chunk for ids in hits.values() for chunk in ids}
        for pair in pairs:
            positions = [a.position for a in pair.anchors]
            assert positions == sorted(anchors if scope == "all" or pair.kind == "random" else retrieved(pair.chunk_id, hits))
            for anchor in pair.anchors:
                ids = hits.get(anchor.position, [])
                rank = ids.index(pair.chunk_id) + 1 if pair.chunk_id in ids else None
                score = 1 / (pair.chunk_id + anchor.position) if rank else None
                assert anchor == Anchor(anchor.position, anchor.position / 7, anchor.position / 9, rank, score)
        assert [p.chunk_id for p in pairs if p.kind == "random"] == random


def retrieved(chunk: int, hits: dict[int, list[int]]) -> list[int]:
    return [position for position, ids in hits.items() if chunk in ids]


reading = st.tuples(
    st.integers(0, 2),
    st.sampled_from(list(ReadingKind)),
    st.floats(0.1, 8),
    st.floats(0, 8),
    st.floats(0, 8),
    st.floats(0, 8),
    st.integers(0, 40),
)
rules = st.builds(
    Rule,
    rule=st.sampled_from(["paper", "specific"]),
    epsilon=st.floats(-0.5, 0.9),
    min_excess=st.floats(-0.5, 0.5),
    min_nll_drop=st.floats(-1, 1),
    max_copy_tokens=st.none() | st.integers(0, 40),
)


@given(rows=st.lists(reading, max_size=25), rule=rules)
def test_acceptance_rule(rows: list[tuple[int, str, float, float, float, float, int]], rule: Rule) -> None:
    columns = [list(c) for c in zip(*rows, strict=True)] or [[] for _ in range(7)]
    position, kind, h, nll, h_with, nll_with, copy = columns
    readings = Readings(
        np.array(position, np.int32), np.array(kind, object), np.array(h, float), np.array(nll, float),
        np.array(h_with, float), np.array(nll_with, float), np.array(copy, np.int32),
    )  # fmt: skip
    verdicts = judge(readings, rule)
    gains = [(a - b) / a for a, b in zip(h, h_with, strict=True)]
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if position[j] == position[i] and j != i]
        controls = [gains[j] for j in others if kind[j] == ReadingKind.SAME_ROOT]
        if len(controls) < 3:
            controls = [gains[j] for j in others if kind[j] == ReadingKind.RANDOM]
        uncopied = rule.max_copy_tokens is None or copy[i] <= rule.max_copy_tokens
        paper = gains[i] > rule.epsilon and uncopied
        specific = bool(
            paper
            and controls
            and gains[i] - statistics.median(controls) > rule.min_excess
            and nll[i] - nll_with[i] > rule.min_nll_drop
        )
        assert verdicts.gain[i] == gains[i]
        assert {name: passes[i] for name, passes in verdicts.passes.items()} == {"paper": paper, "specific": specific}
        chosen = paper if rule.rule == "paper" else specific
        assert verdicts.accepted[i] == (chosen and kind[i] == ReadingKind.RETRIEVED)
