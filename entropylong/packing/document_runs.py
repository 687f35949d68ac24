"""Document runs: documents in a fixed order, what a baseline packs in place of a root with its contexts. Pure Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from entropylong.packing.sequences import PackedSequence, PackRule, Piece, best_fit, write
from entropylong.utils.hashing import xxhash64


@dataclass(frozen=True)
class DocumentRun:
    """Pieces that follow each other in this order in one sequence.

    Attributes:
        name: names it among the runs of its recipe.
    """

    name: str
    pieces: tuple[Piece, ...]

    def tokens(self, separator: int) -> int:
        """With a separator of that many tokens between pieces."""
        return sum(len(piece.ids) for piece in self.pieces) + separator * max(0, len(self.pieces) - 1)

    def cut(self, limit: int, separator: int) -> DocumentRun:
        """Its first `limit` tokens; the last piece may be cut, none is left empty."""
        pieces: list[Piece] = []
        room = limit
        for piece in self.pieces:
            room -= separator if pieces else 0
            if room <= 0:
                break
            pieces.append(Piece(piece.kind, piece.root_id, piece.chunk_id, piece.ids[:room]))
            room -= len(pieces[-1].ids)
        return DocumentRun(self.name, tuple(pieces))


def pack_document_runs(runs: Iterable[DocumentRun], rule: PackRule) -> list[PackedSequence]:
    """Document runs -> sequences, best-fit decreasing as groups are; the result does not depend on their order.

    Args:
        runs: of one bucket; one above a sequence's room is cut on the right.
        rule: length, and the ids around pieces.
    """
    separator, capacity = len(rule.separator_ids), rule.length - len(rule.start_ids)
    whole = [cut for run in runs if (cut := run.cut(capacity, separator)).pieces]
    ordered = sorted(whole, key=lambda s: (-s.tokens(separator), xxhash64(s.name), s.name))
    packed = []
    for numbers in best_fit([run.tokens(separator) for run in ordered], capacity, separator):
        members = sorted((ordered[n] for n in numbers), key=lambda s: (xxhash64(rule.seed, s.name), s.name))
        ids, segments = write([piece for run in members for piece in run.pieces], rule)
        name = xxhash64(rule.seed, rule.recipe, *(run.name for run in members))
        packed.append(PackedSequence(name, ids, segments, ()))
    return packed
