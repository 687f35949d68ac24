"""The artifacts registry: which fingerprint stands for what, from which inputs, in which state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import functions as F

import entropylong
from entropylong.hashing import digest
from entropylong.tables.schemas import ARTIFACTS
from entropylong.tables.store import Store

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


class Registry:
    """Append-only rows of `artifacts`; the newest row of a fingerprint and state counts.

    Read once and kept in memory: it has a few rows a fingerprint.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.read(ARTIFACTS.name).orderBy("at").collect()
        self._known: dict[str, Artifact] = {}
        for row in rows:
            self._known[row.fingerprint] = Artifact(
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
        return self._known.get(fingerprint)

    def latest(self, table: str, config: Mapping[str, Any], upstream: Mapping[str, str]) -> Artifact | None:
        """The newest complete artifact of a table with these keys and upstreams, whatever was pinned in it."""
        for artifact in reversed(self._known.values()):
            same = artifact.table == table and artifact.config == dict(config) and artifact.upstream == dict(upstream)
            if same and artifact.state == COMPLETE:
                return artifact
        return None

    def record(self, artifact: Artifact) -> None:
        """Write the artifact's state, unless it stands there already."""
        known = self._known.get(artifact.fingerprint)
        if known is not None and (known.state == artifact.state or known.state == COMPLETE):
            return
        frame = self._store.spark.createDataFrame(
            [
                (
                    artifact.stage,
                    artifact.table,
                    json.dumps(artifact.config, sort_keys=True),
                    json.dumps(artifact.models, sort_keys=True),
                    dict(artifact.upstream),
                    {k: int(v) for k, v in artifact.input_versions.items()},
                    json.dumps(artifact.pinned, sort_keys=True),
                    entropylong.__version__,
                    artifact.state,
                    datetime.now(UTC),
                )
            ],
            "stage STRING, table_name STRING, config STRING, models STRING, upstream MAP<STRING, STRING>, "
            "input_versions MAP<STRING, BIGINT>, pinned STRING, code_version STRING, state STRING, at TIMESTAMP",
        )
        self._store.append(ARTIFACTS.name, frame.withColumn("code", F.lit(None)), artifact.fingerprint, None)
        self._known.pop(artifact.fingerprint, None)
        self._known[artifact.fingerprint] = artifact
