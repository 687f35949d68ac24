"""Where files are that executors need, and how to trust them. They travel; nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IndexHandle:
    """Where the files of an index are and how to trust them. Travels to executors."""

    directory: str
    fingerprint: str
    manifest_sha256: str
    node_cache: str


@dataclass(frozen=True)
class Excluded:
    """Where the 13-grams of the evaluation sets are. Travels to executors.

    Attributes:
        content: hash of the grams, whatever files they come from: what fingerprints depend on.
    """

    directory: str
    content: str
    manifest_sha256: str
    node_cache: str
