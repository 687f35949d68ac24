"""The artifacts registry: which fingerprint stands for what, from which inputs, in which state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import entropylong
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import ARTIFACTS, OK
from entropylong.storage.store import Store
from entropylong.utils.hashing import digest

STARTED, COMPLETE = "started", "complete"


@dataclass(frozen=True)
class Artifact:
    """A fingerprint and what is in it."""

    fingerprint: str
    stage: str
    table: str
    config: Mapping[str, Any]
    models: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    input_versions: Mapping[str, int] = field(default_factory=dict)
    pinned: Mapping[str, Any] = field(default_factory=dict)
    state: str = STARTED


def fingerprint(
    stage: str,
    version: int,
    config: Mapping[str, Any],
    models: Mapping[str, str],
    upstream: Mapping[str, str],
    pinned: Mapping[str, Any] | None = None,
) -> str:
    """Hash of (stage, its version, semantic keys, model hashes, upstream fingerprints, what was resolved once)."""
    return digest([stage, version, dict(config), dict(models), dict(upstream), dict(pinned or {})])


def differs_by(one: Artifact, other: Artifact) -> str:
    """What of `one` is not as in `other`: keys with the values of `one`, models, tables that it was made from."""
    keys = [f"{k}={v}" for k, v in sorted(one.config.items()) if k not in other.config or other.config[k] != v]
    keys += [f"no {k}" for k in sorted(other.config.keys() - one.config.keys())]
    models = [f"{name} {value}" for name, value in sorted(one.models.items()) if other.models.get(name) != value]
    made_from = [f"other {table}" for table, value in sorted(one.upstream.items()) if other.upstream.get(table) != value]
    pinned = ["another snapshot"] if one.pinned != other.pinned else []
    return ", ".join(models + keys + made_from + pinned) or "an earlier version of the stage"


class Registry:
    """Append-only rows of `artifacts`; the newest row of a fingerprint and state counts.

    Kept in memory: it has a few rows a fingerprint.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._artifacts: dict[str, Artifact] = {}
        self._noted: list[Artifact] = []
        self.reload()

    def reload(self) -> None:
        """Read what stands in the table now."""
        self._artifacts.clear()
        for row in sorted(self._store.read_all(ARTIFACTS.name).collect(), key=lambda row: row.at):
            self._artifacts[row.fingerprint] = Artifact(
                row.fingerprint,
                row.stage,
                row.table_name,
                json.loads(row.config),
                json.loads(row.models),
                row.upstream or {},
                row.input_versions or {},
                json.loads(row.pinned),
                row.state,
            )

    def get(self, fingerprint: str) -> Artifact | None:
        """The artifact of a fingerprint, in its latest state."""
        return self._artifacts.get(fingerprint)

    def fingerprints(self) -> Set[str]:
        """All that are known."""
        return self._artifacts.keys()

    def is_complete(self, fingerprint: str) -> bool:
        """Whether a stage has noted that all rows of a fingerprint are written: half of them look like all."""
        artifact = self._artifacts.get(fingerprint)
        return artifact is not None and artifact.state == COMPLETE

    def latest(self, table: str, config: Mapping[str, Any], upstream: Mapping[str, str]) -> Artifact | None:
        """The newest complete artifact of a table with these keys and upstreams, whatever was pinned in it."""
        for artifact in reversed(self._artifacts.values()):
            same = artifact.table == table and artifact.config == dict(config) and artifact.upstream == dict(upstream)
            if same and artifact.state == COMPLETE:
                return artifact
        return None

    def record(self, artifact: Artifact, again: bool = False) -> None:
        """Write the artifact's state, unless it stands there already.

        Args:
            artifact: what is begun.
            again: of something whole that was complete and is gone: it is not complete until it is made once more.
        """
        if again:
            self._artifacts.pop(artifact.fingerprint, None)
        if self._remember(artifact):
            self._write([artifact])

    def complete(self, artifact: Artifact) -> None:
        """Note that an artifact is complete; `flush` writes the notes of a run as one commit.

        Only a note: whether a row-wise stage is behind is always decided by the keys in its output.
        """
        done = replace(artifact, state=COMPLETE)
        if self._remember(done):
            self._noted.append(done)

    def flush(self) -> None:
        """Write what `complete` noted."""
        if self._noted:
            self._write(self._noted)
            self._noted = []

    def _remember(self, artifact: Artifact) -> bool:
        entry = self._artifacts.get(artifact.fingerprint)
        if entry is not None and (entry.state == artifact.state or entry.state == COMPLETE):
            return False
        self._artifacts.pop(artifact.fingerprint, None)
        self._artifacts[artifact.fingerprint] = artifact
        return True

    def _write(self, artifacts: Sequence[Artifact]) -> None:
        rows = [
            {
                "fingerprint": artifact.fingerprint,
                "stage": artifact.stage,
                "table_name": artifact.table,
                "config": json.dumps(artifact.config, sort_keys=True),
                "models": json.dumps(artifact.models, sort_keys=True),
                "upstream": dict(artifact.upstream),
                "input_versions": dict(artifact.input_versions),
                "pinned": json.dumps(artifact.pinned, sort_keys=True),
                "code_version": entropylong.__version__,
                "state": artifact.state,
                "at": datetime.now(UTC),
                "outcome": OK,
            }
            for artifact in artifacts
        ]
        frame = local_frame(self._store.spark, rows, ARTIFACTS.struct)
        self._store.append(ARTIFACTS.name, frame, None)
