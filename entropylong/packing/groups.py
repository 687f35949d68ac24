"""Groups: a root with its contexts, as packing takes them. Pure Python and numpy.

Token ids are slices of the buffers that they came in: a bucket is packed without a copy of its tokens but the sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from entropylong.utils.hashing import xxhash64

# Token ids `[n]`.
Ids = npt.NDArray[np.int32]


def text_key(ids: Ids) -> bytes:
    """What two chunks of one text have in common: 128 bits of a hash of their ids."""
    return blake2b(np.ascontiguousarray(ids, np.int32).data, digest_size=16).digest()


@dataclass(frozen=True)
class Dependency:
    """A verified (anchor, chunk) of a group: the anchor's position in its root, and what the chunk gains there."""

    chunk_id: int
    position: int
    gain: float
    excess_gain: float | None


@dataclass(frozen=True, eq=False)
class ContextChunk:
    """A chunk as it was verified: its id, its token ids (cut included), the best gain and first anchor it serves."""

    chunk_id: int
    ids: Ids
    gain: float
    first_anchor: int


@dataclass(frozen=True, eq=False)
class Group:
    """The contexts of one root, then the root.

    Attributes:
        fillers: chunks that may fill the rest of its sequence: retrieved and not accepted, or random, as `pack.filler` says.
        capped: chunks that are verified for the root too, but whose uses other roots have: what a swap must not bring in.
    """

    root_id: str
    root_ids: Ids
    contexts: tuple[ContextChunk, ...]
    dependencies: tuple[Dependency, ...]
    fillers: tuple[ContextChunk, ...] = ()
    capped: tuple[ContextChunk, ...] = ()

    def without(self, chunk_ids: Iterable[int]) -> Group:
        """The group less some contexts and the dependencies on them."""
        gone = set(chunk_ids)
        return replace(
            self,
            contexts=tuple(c for c in self.contexts if c.chunk_id not in gone),
            dependencies=tuple(d for d in self.dependencies if d.chunk_id not in gone),
        )

    def tokens(self, separator: int) -> int:
        """Tokens of the group when packed alone, a separator of that many tokens between pieces."""
        return len(self.root_ids) + sum(len(c.ids) + separator for c in self.contexts)


def merge_copies(groups: Iterable[Group]) -> list[Group]:
    """Chunks of one text under one id, within a root and across roots: a second copy would be a trivial dependency."""
    groups = list(groups)
    keys: dict[int, bytes] = {}  # chunk id -> its text: a chunk is cut alike for every root
    first: dict[bytes, int] = {}
    for context in (c for group in groups for c in group.contexts):
        if context.chunk_id not in keys:
            key = keys[context.chunk_id] = text_key(context.ids)
            first[key] = min(context.chunk_id, first.get(key, context.chunk_id))
    return [_merged(group, keys, first) for group in groups]


def _merged(group: Group, keys: dict[int, bytes], first: dict[bytes, int]) -> Group:
    alias = {c.chunk_id: first[keys[c.chunk_id]] for c in group.contexts}
    of_capped = ((c, keys[c.chunk_id] if c.chunk_id in keys else text_key(c.ids)) for c in group.capped)
    capped = tuple(replace(c, chunk_id=first[key]) for c, key in of_capped if key in first)
    if all(chunk == own for own, chunk in alias.items()):  # as nearly always
        return Group(group.root_id, group.root_ids, group.contexts, group.dependencies, group.fillers, capped)
    contexts: dict[int, ContextChunk] = {}
    for context in group.contexts:
        copy = contexts.get(alias[context.chunk_id], context)
        contexts[alias[context.chunk_id]] = ContextChunk(
            alias[context.chunk_id], context.ids, max(copy.gain, context.gain), min(copy.first_anchor, context.first_anchor)
        )
    links: dict[tuple[int, int], Dependency] = {}
    for link in sorted(group.dependencies, key=lambda d: (-d.gain, d.chunk_id)):
        links.setdefault((alias[link.chunk_id], link.position), replace(link, chunk_id=alias[link.chunk_id]))
    return Group(group.root_id, group.root_ids, tuple(contexts.values()), tuple(links.values()), group.fillers, capped)


def order_contexts(group: Group, order: str, seed: int) -> Group:
    """Contexts by hash (`shuffle`), or by the first anchor they serve (`anchor_order`, the paper's ablation)."""
    if order == "anchor_order":
        contexts = sorted(group.contexts, key=lambda c: (c.first_anchor, -c.gain, c.chunk_id))
    else:
        contexts = sorted(group.contexts, key=lambda c: (xxhash64(seed, group.root_id, c.chunk_id), c.chunk_id))
    return replace(group, contexts=tuple(contexts))


def fit_group(group: Group, capacity: int, separator: int) -> Group:
    """Drop contexts, lowest gain first, until the group fits `capacity` tokens. A root alone above it is returned empty."""
    dropped: list[int] = []
    size = group.tokens(separator)
    for context in sorted(group.contexts, key=lambda c: (c.gain, c.chunk_id)):
        if size <= capacity:
            break
        dropped.append(context.chunk_id)
        size -= len(context.ids) + separator
    return group.without(dropped) if dropped else group
