"""The section `sources`: which kinds there are, how their files end, and what `--input` stands for.

How each kind is read is in `entropylong/corpus/sources`, one file a kind.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from entropylong.config.section import CATALOG_SCHEMA, NAME, Operational, Section

# Both sides of planted documents, as the path of a canaries source names them.
CANARY_ROOTS, CANARY_FACTS = "roots", "facts"


class SourceKind(StrEnum):
    """How a source is read: what `Source.kind` may be. `corpus/sources` has a reader for each."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    TEXT = "text"
    DELTA = "delta"
    DEMO = "demo"
    CANARIES = "canaries"


# How the files of a kind end; where several match, the first counts.
SOURCE_ENDINGS: dict[SourceKind, tuple[str, ...]] = {
    SourceKind.PARQUET: (".parquet",),
    SourceKind.JSONL: (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".ndjson"),
    SourceKind.TEXT: (".txt", ".md", ".rst"),
}
# The kinds that may lie in a table in place of a path.
TABLE_SOURCES = (SourceKind.DELTA,)


class ColumnsConfig(Section):
    """Which columns of a source hold the text and the id (doc_id null: a hash of the text)."""

    text: str = "text"
    doc_id: str | None = "doc_id"


class SourceConfig(Section):
    """One named input. The name is semantic, the path is not: the same data may move."""

    kind: Literal["parquet", "jsonl", "text", "delta", "demo", "canaries"]
    path: Annotated[str | None, Operational] = None
    table: Annotated[str | None, Operational] = None
    columns: ColumnsConfig = ColumnsConfig()
    role: Literal["root", "corpus", "both"] = "both"


def input_source(path_or_table: str) -> dict[str, Any]:
    """The one source that `--input` stands for: kind by the ending or by what lies there, named after the file."""
    path = Path(path_or_table).expanduser()
    at = path_or_table if "://" in path_or_table else str(path)
    stem = re.sub(r"[^a-z0-9_]+", "_", path.name.split(".")[0].lower()).strip("_")
    name = stem if NAME.match(stem) else f"input_{stem}".rstrip("_")
    is_file_name = path.name.endswith(tuple(ending for endings in SOURCE_ENDINGS.values() for ending in endings))
    if not path.exists() and not is_file_name and CATALOG_SCHEMA.match(path_or_table.rpartition(".")[0]):
        return {path_or_table.rpartition(".")[2].lower(): {"kind": SourceKind.DELTA, "table": path_or_table}}
    return {name[:64]: {"kind": _kind_of(path), "path": at}}


def _kind_of(path: Path) -> SourceKind:
    if (path / "_delta_log").is_dir():
        return SourceKind.DELTA
    names = [path.name] if not path.is_dir() else [p.name for p in sorted(path.rglob("*")) if p.is_file()]
    for kind, endings in SOURCE_ENDINGS.items():
        if any(name.endswith(endings) for name in names):
            return kind
    return SourceKind.JSONL
