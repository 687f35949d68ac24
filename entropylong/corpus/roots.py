"""Which root ids a document has: its own, or one a piece of it with `roots.long: split`. Pure strings and numpy."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

SPLIT = "split"
# In split mode every id that ends so is a piece's, whatever the user's own ids look like: see `root_ids`.
PIECE = r"#\d+$"

Ids = npt.NDArray[np.int32]


def root_ids(doc_id: str, pieces: int, long: str) -> list[str]:
    """One id a piece: `doc_id#0`, `doc_id#1`, ...; the document's own where it is not split.

    A document whose own id ends like a piece's gets a `#0` all the same, so that no two roots share an id and the document of a
    root can be told from the id alone.
    """
    if long == SPLIT and (pieces > 1 or re.search(PIECE, doc_id)):
        return [f"{doc_id}#{number}" for number in range(pieces)]
    return [doc_id]


def doc_id_of(root_id: str, long: str) -> str:
    """The document that a root is, or is a piece of."""
    return re.sub(PIECE, "", root_id) if long == SPLIT else root_id


def split_ids(ids: Ids, max_tokens: int) -> list[Ids]:
    """Pieces of nearly equal length, none longer than `max_tokens`: a short rest would have hardly any anchors."""
    return np.array_split(ids, max(1, -(-len(ids) // max_tokens)))
