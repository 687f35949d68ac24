"""Recipes over the same judged cells: who becomes whose context, and that nothing else differs. Real Spark, real Delta."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from entropylong.hashing import xxhash64
from entropylong.recipes.contexts import permuted
from tests.conftest import OpenRunner, quiet


def pieces(sequences: list[Any], kind: str) -> Counter[object]:
    """Roots, or context chunks, of sequences."""
    return Counter(s.root_id if kind == "root" else s.chunk_id for q in sequences for s in q.segments if s.kind == kind)


def test_permuted_has_the_same_tokens_and_no_link(copied: Path, open_runner: OpenRunner) -> None:
    """Packed in groups, so that what stands before a root is its own context."""
    keys = ("pack.max_chunk_uses=null", "pack.layout=grouped")
    plain, other = open_runner(copied, *keys), open_runner(copied, *keys, "pack.recipe=permuted")
    plain.run(["pack"], announce=quiet)
    assert [done.step.writes for done in other.run(["pack"], announce=quiet).steps] == ["sequences"]
    accepted = plain.cells().where("accepted").collect()
    linked = {(c.root_id, c.chunk_id) for c in accepted}
    own = {root: {c for r, c in linked if r == root} for root, _ in linked}
    ordered = sorted(own, key=lambda root: (len(own[root]), xxhash64(root), root))
    wanted = {(to, c) for to, giver in zip(ordered, ordered[1:] + ordered[:1], strict=True) for c in own[giver] - own[to]}
    given = [(c.root_id, c.chunk_id) for c in permuted(plain.cells(), plain.config.accept).collect()]
    assert len(ordered) > 3 and sorted(given) == sorted(wanted)
    sequences = {name: r.store.read_ok("sequences", r.fingerprint("sequences")).collect() for name, r in
                 (("verified", plain), ("permuted", other))}  # fmt: skip
    assert {q.recipe for q in sequences["permuted"]} == {"permuted"} and not any(q.dependencies for q in sequences["permuted"])
    assert any(q.dependencies for q in sequences["verified"])
    kept = {chunk for _, chunk in given}
    assert set(pieces(sequences["permuted"], "context")) <= kept <= set(pieces(sequences["verified"], "context"))
    assert set(pieces(sequences["permuted"], "root")) <= set(pieces(sequences["verified"], "root"))
    for q in sequences["permuted"]:
        before: list[int] = []
        for s in q.segments:
            if s.kind == "context":
                before.append(s.chunk_id)
            elif s.kind == "root":
                assert not set(before) & own[s.root_id], "what stands before it, it was not verified with"
                before = []
