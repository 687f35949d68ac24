"""What was counted of tables, and the commits at which it was: while these are the newest ones, nothing is counted again.

A cache in the workspace that runs write; the tables are the truth. Without it all is counted, as if nothing had run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import entropylong
from entropylong.core.results import Counts
from entropylong.utils.files import write_whole

logger = logging.getLogger(__name__)


class Kind(StrEnum):
    """Of what something is known."""

    COUNTS = "counts"
    CONTENT = "content"
    ROWS = "rows"


@dataclass(frozen=True)
class Known:
    """What was found, and the newest commit of each table that it was found in.

    Attributes:
        commits: Table -> its commit, as `PipelineState.commit` names it.
        rows_in: Keys of a step; none of them was left.
        outcomes: (outcome, code, rows) of a table: a step's output.
        content: Hash of what packing starts from.
    """

    commits: dict[str, str]
    rows_in: int = 0
    outcomes: tuple[tuple[str, str | None, int], ...] = ()
    content: str = ""

    @classmethod
    def of(cls, counts: Counts, commits: dict[str, str]) -> Known:
        """The counts of a step of which nothing is left."""
        return cls(commits, counts.rows_in, tuple((outcome, code, n) for (outcome, code), n in counts.outcomes.items()))

    @property
    def by_outcome(self) -> dict[tuple[str, str | None], int]:
        """Rows by (outcome, code)."""
        return {(outcome, code): n for outcome, code, n in self.outcomes}


_ENTRIES = TypeAdapter(dict[str, Known])


class KnownCounts:
    """The notes of a workspace: one by kind, fingerprint and what else decides.

    Args:
        file: Where they are kept.
        commit_of: Table -> its newest commit.
    """

    def __init__(self, file: Path, commit_of: Callable[[str], str]) -> None:
        self._file, self._commit_of = file, commit_of
        self._entries: dict[str, Known] = {}
        self.reload()

    def reload(self) -> None:
        """Read what is in the file now; nothing where it is damaged or not there."""
        try:
            self._entries = _ENTRIES.validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            self._entries = {}

    def get(self, kind: Kind, fingerprint: str, decided_by: str) -> Known | None:
        """What is known, if each table is still at the commit at which it was found."""
        known = self._entries.get(_key(kind, fingerprint, decided_by))
        if known is None or any(self._commit_of(table) != commit for table, commit in known.commits.items()):
            return None
        return known

    def note(self, kind: Kind, fingerprint: str, decided_by: str, known: Known) -> None:
        """Keep it; `save` writes. What was found at earlier commits of the same can never hold again, and goes."""
        mine, own = _key(kind, fingerprint), known.commits
        self._entries = {key: other for key, other in self._entries.items() if not key.startswith(mine) or other.commits == own}
        self._entries[_key(kind, fingerprint, decided_by)] = known

    def clear(self) -> None:
        """Know nothing, so that all is counted."""
        self._entries = {}

    def save(self, fingerprints: Set[str]) -> None:
        """Write the notes of these fingerprints, and forget all others."""
        self._entries = {key: known for key, known in self._entries.items() if key.split("/")[1] in fingerprints}
        try:
            write_whole(self._file, json.dumps({key: asdict(known) for key, known in self._entries.items()}))
        except OSError as error:
            # Of what failed before, the run tells; without the notes it is counted again.
            logger.debug("%s: not written: %s", self._file, error.strerror)


def _key(kind: Kind, fingerprint: str, decided_by: str = "") -> str:
    # Another version of the code may count otherwise.
    return f"{kind}/{fingerprint}/{entropylong.__version__}/{decided_by}"
