"""Groups: a root with its contexts, as packing takes them. Pure Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from entropylong.hashing import xxhash64


@dataclass(frozen=True)
class Dependency:
    """A verified (anchor, chunk) of a group: the anchor's position in its root, and what the chunk gains there."""

    chunk_id: int
    position: int
    gain: float
    excess_gain: float | None


@dataclass(frozen=True)
class Context:
    """A chunk as it was verified: its id, its token ids (cut included), the best gain and first anchor it serves."""

    chunk_id: int
    ids: tuple[int, ...]
    gain: float
    first_anchor: int


@dataclass(frozen=True)
class Group:
    """The contexts of one root, then the root.

    Attributes:
        rejected: chunks that the root retrieved and that were not accepted, for `pack.filler: rejected`.
    """

    root_id: str
    root_ids: tuple[int, ...]
    contexts: tuple[Context, ...]
    dependencies: tuple[Dependency, ...]
    rejected: tuple[Context, ...] = ()

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
