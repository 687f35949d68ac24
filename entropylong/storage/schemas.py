"""One schema a table, with the comments that `DESCRIBE` shows and the CHECK constraints that are the last line.

Column types come as Spark DDL, so that this module reads as the data dictionary. Every table also has `fingerprint` (the
only partition column), `outcome`, `code` and `detail`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from pyspark.sql.types import StructField, StructType

# Columns that name a row, in whichever table.
NAMES = ("doc_id", "root_id", "chunk_id", "pair_id", "position")
OK, SKIPPED, ERROR = "ok", "skipped", "error"
DETAIL_CHARS = 512

# The columns of every table.
COMMON = (
    ("fingerprint", "STRING", "Hash of the stage, its semantic config keys, model hashes and upstream fingerprints"),
    ("outcome", "STRING", "ok | skipped (by rule) | error (damage, counts against quarantine.max_rate)"),
    ("code", "STRING", "Why a row is skipped or an error; null for ok rows"),
    ("detail", "STRING", "At most 512 characters of explanation; null for ok rows"),
)


def struct_of(ddl: str) -> StructType:
    """A struct type from DDL."""
    return cast(StructType, StructType.fromDDL(ddl))


@dataclass(frozen=True)
class TableSchema:
    """A table: its name, what one row is, columns as (name, DDL type, comment), and CHECKs that ok rows satisfy.

    Attributes:
        has_unique_key: Whether a key has one row at most.
    """

    name: str
    row: str
    columns: tuple[tuple[str, str, str], ...]
    key: tuple[str, ...]
    ok_checks: dict[str, str] = field(default_factory=dict)
    has_unique_key: bool = True

    @cached_property
    def struct(self) -> StructType:
        """The columns in order, with comments as metadata; every column is nullable, as refused rows lack some."""
        return StructType(
            [
                StructField(name, struct_of(f"x {ddl}")[0].dataType, True, {"comment": comment})
                for name, ddl, comment in (*self.columns, *COMMON)
            ]
        )

    @property
    def ddl(self) -> str:
        """The columns as a DDL string, for UDF return types."""
        return ", ".join(f"{name} {ddl}" for name, ddl, _ in (*self.columns, *COMMON))

    @property
    def checks(self) -> dict[str, str]:
        """Constraint name -> condition."""
        common = {
            "outcome_known": f"outcome IN ('{OK}', '{SKIPPED}', '{ERROR}')",
            "code_unless_ok": f"(outcome = '{OK}') = (code IS NULL)",
            "detail_short": f"detail IS NULL OR length(detail) <= {DETAIL_CHARS}",
            "fingerprint_set": "fingerprint IS NOT NULL AND length(fingerprint) >= 8",
        }
        return common | {name: f"outcome <> '{OK}' OR ({check})" for name, check in self.ok_checks.items()}


_ID = "Id of the document: as given, or a 128-bit hash of its text"
_ROOT = "The root: its doc_id"
_CHUNK = "xxhash64(doc_id, ordinal)"
_GRID = "int16, little-endian, in steps of 1/4000 (retrieval/grid.py)"
_POSITION = "0-based token position in the root"

DOCUMENTS = TableSchema(
    "documents",
    "an input document",
    (
        ("doc_id", "STRING", _ID),
        ("text", "STRING", "The text; null if it was unreadable"),
        ("source", "STRING", "Name of the source in the config"),
        ("n_chars", "INT", "Characters of the text"),
        ("text_hash", "BIGINT", "xxhash64(text), for exact-duplicate removal"),
        ("origin", "STRING", "Unit of input (file@bytes, and range) and record within it, unique per input record"),
    ),
    ("origin",),
    {"text_set": "doc_id IS NOT NULL AND text IS NOT NULL AND n_chars = char_length(text)"},
)
CHUNKS = TableSchema(
    "chunks",
    "a retrieval unit",
    (
        ("chunk_id", "BIGINT", _CHUNK),
        ("doc_id", "STRING", _ID),
        ("ordinal", "INT", "Number of the chunk in its document, from 0"),
        ("text", "STRING", "The chunk's text"),
        ("text_hash", "BIGINT", "xxhash64(text)"),
    ),
    ("chunk_id",),
    {"text_set": "chunk_id IS NOT NULL AND text IS NOT NULL AND text_hash IS NOT NULL"},
)
CHUNK_VECTORS = TableSchema(
    "chunk_vectors",
    "a chunk under an encoder",
    (
        ("chunk_id", "BIGINT", _CHUNK),
        ("text_hash", "BIGINT", "xxhash64(text)"),
        ("vector", "BINARY", "float16, little-endian, L2-normalised"),
    ),
    ("chunk_id",),
    {"vector_set": "text_hash IS NOT NULL AND vector IS NOT NULL AND length(vector) > 0"},
)
INDEX_CELLS = TableSchema(
    "index_cells",
    "a chunk under an index",
    (
        ("chunk_id", "BIGINT", _CHUNK),
        ("cell_id", "INT", "The nearest cell of the coarse quantizer"),
        ("text_hash", "BIGINT", "xxhash64(text)"),
        ("vector", "BINARY", _GRID),
    ),
    ("chunk_id",),
    {"vector_set": "cell_id >= 0 AND text_hash IS NOT NULL AND vector IS NOT NULL AND length(vector) > 0"},
)
SCORED_DOCUMENTS = TableSchema(
    "scored_documents",
    "a root under a model",
    (
        ("root_id", "STRING", _ROOT),
        ("doc_id", "STRING", _ID),
        ("input_ids", "ARRAY<INT>", "The token ids that were scored, without the start token"),
        ("n_tokens", "INT", "Number of input_ids"),
        ("entropy", "BINARY", "float32 a token: Shannon entropy in nats before each token"),
        ("nll", "BINARY", "float32 a token: negative log-likelihood in nats of each token"),
    ),
    ("root_id",),
    {"profiles_whole": "n_tokens = size(input_ids) AND length(entropy) = 4 * n_tokens AND length(nll) = 4 * n_tokens"},
)
ANCHORS = TableSchema(
    "anchors",
    "a root's high-entropy positions under one alpha",
    (
        ("root_id", "STRING", _ROOT),
        ("entropy_mean", "FLOAT", "Mean entropy of eligible positions, nats"),
        ("entropy_std", "FLOAT", "Population standard deviation of them, nats"),
        ("threshold", "FLOAT", "tau = mean + alpha * std, nats"),
        ("anchors", "ARRAY<STRUCT<position: INT, entropy: FLOAT, nll: FLOAT>>", "Positions above tau, ascending"),
    ),
    ("root_id",),
    {"not_nan": "size(anchors) > 0 AND threshold IS NOT NULL AND NOT isnan(threshold)"},
)
QUERY_VECTORS = TableSchema(
    "query_vectors",
    "an anchor's query window under an encoder",
    (
        ("root_id", "STRING", _ROOT),
        ("position", "INT", _POSITION),
        ("vector", "BINARY", "float16, little-endian, L2-normalised"),
    ),
    ("root_id", "position"),
    {"vector_set": "vector IS NOT NULL AND length(vector) > 0"},
)
QUERY_CELLS = TableSchema(
    "query_cells",
    "an anchor's query on its way through a partitioned search",
    (
        ("root_id", "STRING", _ROOT),
        ("position", "INT", _POSITION),
        ("vector", "BINARY", _GRID),
        ("own", "ARRAY<BIGINT>", "xxhash64 of the texts of the root's own chunks"),
        ("cells", "ARRAY<INT>", "The nearest cells, nearest first"),
    ),
    ("root_id", "position"),
    {"cells_set": "size(cells) > 0 AND vector IS NOT NULL"},
)
PARTIAL_CANDIDATES = TableSchema(
    "partial_candidates",
    "what an anchor's query found in a range of cells",
    (
        ("root_id", "STRING", _ROOT),
        ("position", "INT", _POSITION),
        ("first_cell", "INT", "First cell of the range"),
        ("hits", "ARRAY<STRUCT<loss: INT, chunk_id: BIGINT>>", "Best first; loss: minus the score in steps of the grid"),
    ),
    ("root_id", "position", "first_cell"),
    {"hits_set": "hits IS NOT NULL"},
)
CANDIDATES = TableSchema(
    "candidates",
    "a root's anchor under an index",
    (
        ("root_id", "STRING", _ROOT),
        ("position", "INT", _POSITION),
        ("hits", "ARRAY<STRUCT<chunk_id: BIGINT, rank: INT, score: FLOAT>>", "Nearest chunks, rank from 1, cosine"),
    ),
    ("root_id", "position"),
    {"hits_set": "size(hits) > 0"},
)
PAIRS = TableSchema(
    "pairs",
    "a (root, chunk) to measure",
    (
        ("pair_id", "BIGINT", "Hash of all that the measurement depends on"),
        ("root_id", "STRING", _ROOT),
        ("chunk_id", "BIGINT", _CHUNK),
        ("kind", "STRING", "candidate | random (control)"),
        (
            "anchors",
            "ARRAY<STRUCT<position: INT, entropy: FLOAT, nll: FLOAT, rank: INT, score: FLOAT>>",
            "Where it is to be read: baseline in nats, and the chunk's rank and score if this anchor retrieved it",
        ),
    ),
    ("root_id", "chunk_id"),
    {"kind_known": "kind IN ('candidate', 'random') AND pair_id IS NOT NULL AND size(anchors) > 0"},
)
CONTEXT_IDS = TableSchema(
    "context_ids",
    "a chunk that a pair names, as it is prepended",
    (
        ("chunk_id", "BIGINT", _CHUNK),
        ("ids", "ARRAY<INT>", "Token ids of the chunk, cut to contexts.max_tokens"),
    ),
    ("chunk_id",),
    {"ids_set": "chunk_id IS NOT NULL AND ids IS NOT NULL"},
)
GAINS = TableSchema(
    "gains",
    "one pass of a pair; raw measurements, no threshold applied (skipped: a pair that a budget or a screen left out)",
    (
        ("pair_id", "BIGINT", "Hash of all that the measurement depends on"),
        ("root_id", "STRING", _ROOT),
        ("chunk_id", "BIGINT", _CHUNK),
        ("kind", "STRING", "candidate | random (control)"),
        ("n_context_tokens", "INT", "Tokens of the chunk as prepended"),
        (
            "readings",
            "ARRAY<STRUCT<position: INT, entropy_with: FLOAT, nll_with: FLOAT, copy_len: INT, screen_gain: FLOAT>>",
            "At each anchor: entropy and NLL in nats with the chunk in front, the verbatim copy over it in tokens, a screen's gain",
        ),
        ("selection", "STRING", "Hash of the budget and the screen that the row was written under; null: neither"),
    ),
    ("pair_id",),
    # As JSON: Delta refuses a constraint that reaches into an array's fields, and takes a lambda's arrow apart.
    {"readings_numbers": "size(readings) > 0 AND locate('NaN', to_json(readings)) = 0"},
    # Two chunks with one text are one pair, and a plan may read both.
    has_unique_key=False,
)
SEQUENCES = TableSchema(
    "sequences",
    "a training sequence",
    (
        ("sequence_id", "BIGINT", "Hash of seed, recipe and roots"),
        ("recipe", "STRING", "Producer of the groups: verified, noverify, ..."),
        ("input_ids", "ARRAY<INT>", "Exactly pack.length token ids"),
        (
            "segments",
            "ARRAY<STRUCT<kind: STRING, root_id: STRING, chunk_id: BIGINT, start: INT, end: INT>>",
            "start, context, root, separator, filler, pad: they cover input_ids exactly, end exclusive",
        ),
        (
            "dependencies",
            "ARRAY<STRUCT<root_id: STRING, chunk_id: BIGINT, anchor: INT, context_end: INT, distance: INT, "
            "gain: FLOAT, excess_gain: FLOAT>>",
            "Verified dependencies: absolute anchor, end of its context, tokens between them",
        ),
        ("loss_mask", "BINARY", "One byte a token, 0 on padding; null where every token counts"),
    ),
    ("sequence_id",),
    {"ids_set": "size(input_ids) > 0 AND size(segments) > 0"},
)
METRICS = TableSchema(
    "metrics",
    "a figure of a run",
    (
        ("run_id", "STRING", "Id of the pipeline run"),
        ("stage", "STRING", "Stage that the figure belongs to, or run"),
        ("name", "STRING", "Name of the figure"),
        ("value", "DOUBLE", "Its value"),
        ("at", "TIMESTAMP", "When it was measured"),
    ),
    ("run_id", "stage", "name"),
)
ARTIFACTS = TableSchema(
    "artifacts",
    "a state of a fingerprint: the registry that everything which joins tables goes through",
    (
        ("stage", "STRING", "Stage that the fingerprint belongs to"),
        ("table_name", "STRING", "Table (or index, roots) that it names"),
        ("config", "STRING", "JSON of the semantic keys in it"),
        ("models", "STRING", "JSON of the model hashes in it"),
        ("upstream", "MAP<STRING, STRING>", "Upstream table -> fingerprint"),
        ("input_versions", "MAP<STRING, BIGINT>", "Delta versions pinned at its first start"),
        ("pinned", "STRING", "JSON of what was resolved once: threshold of the roots, snapshot of an index"),
        ("code_version", "STRING", "Version of this package"),
        ("state", "STRING", "started | complete"),
        ("at", "TIMESTAMP", "When the row was written"),
    ),
    ("fingerprint", "state"),
)

TABLES = {
    schema.name: schema
    for schema in (
        DOCUMENTS, CHUNKS, CHUNK_VECTORS, INDEX_CELLS, SCORED_DOCUMENTS, ANCHORS, QUERY_VECTORS, QUERY_CELLS, PARTIAL_CANDIDATES,
        CANDIDATES, PAIRS, CONTEXT_IDS, GAINS, SEQUENCES, METRICS, ARTIFACTS,
    )
}  # fmt: skip
