"""What `train.data` names, as sealed feeds: sequences of a table, documents or conversations packed to the same length. Spark."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from entropylong.config import Config
from entropylong.config.schema import TrainDataConfig
from entropylong.core.handles import Excluded
from entropylong.core.udf import record_batches
from entropylong.corpus.exclusion import open_excluded
from entropylong.corpus.selection import has_canaries, is_canary, is_held_out
from entropylong.corpus.sources.base import Damaged
from entropylong.corpus.sources.jsonl import JSONL, json_lines
from entropylong.corpus.stage import unit_frame, units_of
from entropylong.errors import ConfigError, FeedError, QuarantineExceededError
from entropylong.models.cache import WorkerModel, load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.pipeline.state import PipelineState
from entropylong.storage.artifacts import Registry
from entropylong.storage.codes import CONTAMINATED
from entropylong.storage.store import Store
from entropylong.storage.workspace import Workspace
from entropylong.training.data.chat import CUT, RefusedError, encode_conversation, parse_conversation
from entropylong.training.data.manifest import MANIFEST, FeedManifest, read_manifest
from entropylong.training.data.rows import DDL, Item, feed_table, pack_items, sequence_arrays
from entropylong.training.data.seal import seal_feed
from entropylong.utils.hashing import digest, files_sha256, share_threshold, xxhash64

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Sequences that are packed together: enough for bins to fill, few enough for a worker's memory.
_BUCKET_SEQUENCES = 64
_ITEM = "item_id BIGINT, input_ids ARRAY<INT>, targets BINARY, code STRING, detail STRING"
_ITEM_SCHEMA = pa.schema(
    [("item_id", pa.int64()), ("input_ids", pa.list_(pa.int32())), ("targets", pa.binary()), ("code", pa.string()),
     ("detail", pa.string())]
)  # fmt: skip
REFUSED = "refused.jsonl"
_REFUSED_TOLD = 10_000


@dataclass(frozen=True)
class SealedFeed:
    """A feed of a training run.

    Attributes:
        name: under train.data.
        kind: sequences, documents or chat.
        folder: of its files.
        manifest: what it holds.
        weight: its share of the rows.
        store: of the table that it was made from, if one was.
    """

    name: str
    kind: str
    folder: Path
    manifest: FeedManifest
    weight: float
    store: Store | None = None

    @property
    def is_sequences(self) -> bool:
        return self.kind == "sequences"


class Feeds:
    """Makes the feeds of a config.

    Args:
        config: `train.data` names them; without any, the sequences of the config.
        spark: the session.
        trained: the model to train, for its tokenizer.
        vocabulary: ids that it knows.
        template: the chat template that conversations are rendered with, the tokenizer's own or another.
    """

    def __init__(
        self,
        config: Config,
        spark: SparkSession,
        trained: WorkerModel,
        vocabulary: int,
        template: str | None,
    ) -> None:
        self.config, self.spark, self._vocabulary, self._template = config, spark, vocabulary, template
        self._tokenizer = trained.tokenizer()
        self._workspace = Workspace(config.workspace)
        self._runners: dict[str, PipelineState] = {}

    def all(self) -> list[SealedFeed]:
        """Each of `train.data`, sealed now or before.

        Raises:
            FeedError: there is nothing to train on.
        """
        named = self.config.train.data
        if not named and self.config.train.mode == "sft":
            raise ConfigError("train.mode sft needs conversations: give --input FILE.jsonl, or train.data in the config file")
        named = named or {"sequences": TrainDataConfig(kind="sequences")}
        make = {"sequences": self._sequences, "documents": self._documents, "chat": self._chat}
        return [make[data.kind](name, data) for name, data in sorted(named.items())]

    def state(self, recipe: str | None = None) -> PipelineState:
        """The workspace under this config, or under another recipe of it."""
        name = recipe or self.config.pack.recipe
        if name not in self._runners:
            self._runners[name] = PipelineState(self.config.with_keys(pack={"recipe": name}), self.spark)
        return self._runners[name]

    def _sequences(self, name: str, data: TrainDataConfig) -> SealedFeed:
        length, with_drops = self.config.pack.length, self.config.train.anchor_weight is not None
        if data.fingerprint is None:
            state = self.state(data.recipe)
            store, registry, value = state.store, state.registry, state.fingerprint("sequences")
        else:
            store = Store(self.spark, data.tables or self.config.tables)
            registry, value = Registry(store), data.fingerprint
        version = store.version("sequences")
        if value is None or not registry.is_complete(value):
            raise FeedError(f"train.data {name}: no sequences yet; make them with: entropylong run, with the same config")
        # Rows of a fingerprint never change: a feed of them serves, whatever was committed since.
        suffix = "-drops" if with_drops else ""
        sealed = [f for f in self._workspace.feeds(value) if f.name.endswith("-drops") == with_drops and (f / MANIFEST).is_file()]
        folder = sealed[0] if sealed else self._workspace.feed(f"{value}-v{version}{suffix}")
        if with_drops and data.fingerprint is not None:
            raise FeedError(f"train.data {name}: train.anchor_weight needs the readings of this config; leave fingerprint out")
        rows = store.read_ok("sequences", value, version)
        drops = _verified_drops(self.state(data.recipe), rows) if with_drops else None
        manifest = self._seal(name, folder, lambda: _sequence_rows(rows, drops), store.place("sequences"), value, version)
        if manifest.length != length:
            raise FeedError(f"train.data {name}: sequences of {manifest.length} tokens, pack.length is {length}")
        return SealedFeed(name, data.kind, folder, manifest, data.weight, store)

    def _documents(self, name: str, data: TrainDataConfig) -> SealedFeed:
        state = self.state()
        table, version = state.fingerprint("documents"), state.store.version("documents")
        if table is None or not state.registry.is_complete(table):
            raise FeedError(
                f"train.data {name}: the documents are not read to their end; run: entropylong run ingest, with the same config"
            )
        length, seed, start = self.config.pack.length, self.config.seed, self.config.model.document_start_id
        excluded, doc_id = state.context.excluded, F.col("doc_id")
        left_out = [excluded.content if excluded else None, self.config.pack.held_out]
        value = digest([table, self._tokenizer.fingerprint, start, length, data.share, seed, *left_out])
        chosen = F.xxhash64(F.lit(seed).cast("bigint"), doc_id) <= F.lit(share_threshold(data.share))
        chosen &= ~is_held_out(self.config, doc_id)
        if has_canaries(self.config):
            chosen &= ~is_canary(doc_id)
        texts = state.store.read_ok("documents", table, version).where(chosen).select("doc_id", "text")
        items = texts.mapInArrow(_document_items(self._tokenizer, start, length, excluded), _ITEM)
        folder = self._workspace.feed(f"{value}-v{version}")
        manifest = self._seal(name, folder, lambda: self._packed(name, folder, items), name, value, version)
        return SealedFeed(name, data.kind, folder, manifest, data.weight, state.store)

    def _chat(self, name: str, data: TrainDataConfig) -> SealedFeed:
        source = Path(data.path or "").expanduser().absolute()
        units = JSONL.list_units(f"train.data {name}", str(source), self.config.ingest.unit_bytes)
        train, length, seed = self.config.train, self.config.pack.length, self.config.seed
        base = source.parent if source.is_file() else source
        files = sorted({Path(unit.path) for unit in units})
        value = digest(
            [files_sha256(base, files), self._tokenizer.fingerprint, self._template, train.loss_on, length, seed]
        )  # fmt: skip
        encode = _conversation_items(self._tokenizer, self._template, train.loss_on == "assistant", length)
        items = unit_frame(self.spark, units).mapInArrow(encode, _ITEM)
        folder = self._workspace.feed(f"{value}-v0")
        manifest = self._seal(name, folder, lambda: self._packed(name, folder, items), name, value, 0)
        return SealedFeed(name, data.kind, folder, manifest, data.weight)

    def _seal(
        self, name: str, folder: Path, rows: Callable[[], DataFrame], table: str, fingerprint: str, version: int
    ) -> FeedManifest:
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
        else:
            facts = {"table": table, "fingerprint": fingerprint, "version": version, "length": self.config.pack.length}
            manifest = seal_feed(rows(), folder, **facts)  # type: ignore[arg-type]
            logger.info(f"feed {name}: {manifest.rows:,} sequences of {manifest.length:,} tokens in {folder}")
        if (highest := max(file.highest_id for file in manifest.files)) >= self._vocabulary:
            raise FeedError(f"train.data {name}: holds token id {highest}, the model knows {self._vocabulary}: another tokenizer's")
        return manifest

    def _packed(self, name: str, folder: Path, items: DataFrame) -> DataFrame:
        """Items -> sequences, bucket by bucket; what was refused goes to a file beside the feed."""
        items = items.persist(StorageLevel.DISK_ONLY)
        length, seed = self.config.pack.length, self.config.seed
        good = items.where(F.col("input_ids").isNotNull())
        tokens = good.agg(F.sum(F.size("input_ids"))).collect()[0][0] or 0
        self._report(name, folder, items)
        if not tokens:
            raise FeedError(f"train.data {name}: holds nothing to train on")
        buckets = math.ceil(tokens / (length * _BUCKET_SEQUENCES))
        bucket = F.pmod(F.xxhash64(F.lit(seed).cast("bigint"), "item_id"), F.lit(buckets)).alias("bucket")
        # Exact copies of an item have one id, and count once.
        chosen = good.select("item_id", "input_ids", "targets", bucket).dropDuplicates(["item_id"])
        return chosen.groupBy("bucket").applyInArrow(_pack_bucket(self._tokenizer, length, seed), DDL)

    def _report(self, name: str, folder: Path, items: DataFrame) -> None:
        counts = {row.code: row["count"] for row in items.groupBy("code").count().collect()}
        noted = {code: n for code, n in counts.items() if code is not None}
        total, refused = sum(counts.values()), sum(n for code, n in noted.items() if code != CUT)
        if not noted:
            return
        rows = items.where("code IS NOT NULL").select("code", "detail").limit(_REFUSED_TOLD).collect()
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_name(f"{folder.name}.{REFUSED}")
        file.write_text("".join(json.dumps(row.asDict(), ensure_ascii=False) + "\n" for row in rows))
        codes = ", ".join(f"{n:,} {code}" for code, n in sorted(noted.items()))
        if refused > self.config.quarantine.max_rate * total:
            raise QuarantineExceededError(
                f"train.data {name}: {refused:,} of {total:,} records are refused ({codes}), more than quarantine.max_rate allows; "
                f"they are listed in {file}"
            )
        logger.info(f"feed {name}: of {total:,} records {codes}; they are listed in {file}")


def _sequence_rows(rows: DataFrame, drops: DataFrame | None) -> DataFrame:
    """Rows of `sequences` -> rows of a feed."""
    if drops is None:
        none = F.array().cast("array<struct<anchor: int, nll_drop: float>>")
        whole = rows.withColumn("drops", none)
    else:
        whole = rows.join(drops, "sequence_id", how="left").withColumn("drops", F.coalesce("drops", F.array()))

    def run(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            columns = [batch.column(batch.schema.get_field_index(c)) for c in ("input_ids", "segments", "loss_mask", "drops")]
            arrays = [
                sequence_arrays(ids.values.to_numpy(), segments.as_py(), mask.as_py(), row_drops.as_py())
                for ids, segments, mask, row_drops in zip(*columns, strict=True)
            ]
            ids = batch.column(batch.schema.get_field_index("sequence_id")).to_pylist()
            yield from feed_table(ids, arrays).to_batches()

    return whole.select("sequence_id", "input_ids", "segments", "loss_mask", "drops").mapInArrow(run, DDL)


def _verified_drops(state: PipelineState, rows: DataFrame) -> DataFrame:
    """(sequence_id, drops): of each dependency of a sequence its anchor and how much its context lowered the token's NLL."""
    state.fingerprint("sequences")
    root = F.col("piece")
    starts = rows.select("sequence_id", F.explode("segments").alias("piece")).where(root["kind"] == "root")
    starts = starts.select("sequence_id", root["root_id"].alias("root_id"), root["start"].alias("root_start"))
    placed = rows.select("sequence_id", F.explode("dependencies").alias("d")).select(
        "sequence_id", "d.root_id", "d.chunk_id", "d.anchor"
    )
    read = (
        state.readings()
        .where("accepted")
        .select("root_id", "chunk_id", "position", (F.col("nll") - F.col("nll_with")).alias("nll_drop"))
    )
    return (
        placed.join(starts, ["sequence_id", "root_id"], how="inner")
        .withColumn("position", F.col("anchor") - F.col("root_start"))
        .join(read, ["root_id", "chunk_id", "position"], how="inner")
        .groupBy("sequence_id")
        .agg(F.collect_list(F.struct("anchor", F.col("nll_drop").cast("float").alias("nll_drop"))).alias("drops"))
    )


Batches = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]


def _document_items(tokenizer: WorkerModel, start_id: int | None, length: int, excluded: Excluded | None) -> Batches:
    """(doc_id, text) -> items: a start token and the text; a longer one in pieces of the length.

    Refused are those that share text with a set of `corpus.exclude`.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        words, grams = load(tokenizer), open_excluded(excluded)
        start_ids, _ = pad_and_start(words, start_id)

        def items() -> Iterator[dict[str, Any]]:
            for batch in batches:
                for doc_id, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if grams is not None and (shared := grams.shared(text)):
                        yield _item(xxhash64(doc_id, 0), code=CONTAMINATED, detail=f"{doc_id}: {shared}")
                        continue
                    ids = [*start_ids, *encode_plain(words, text)]
                    yield from (_item(xxhash64(doc_id, n), ids[n : n + length]) for n in range(0, len(ids), length))

        return record_batches(items(), _ITEM_SCHEMA)

    return run


def _conversation_items(tokenizer: WorkerModel, template: str | None, assistant_only: bool, length: int) -> Batches:
    """Units of JSON lines -> items, and refused ones with their reason. A longer conversation keeps its first `length` tokens."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        words = load(tokenizer)

        def item(line: str | Damaged) -> dict[str, Any]:
            if isinstance(line, Damaged):
                return _item(0, code=line.code, detail=line.detail)
            try:
                messages = parse_conversation(line)
                ids, targets = encode_conversation(words, messages, template=template, assistant_only=assistant_only)
            except RefusedError as refused:
                return _item(xxhash64(line), code=refused.code, detail=f"{refused.detail}: {line[:80]}")
            cut = {"code": CUT, "detail": f"{len(ids)} tokens: {line[:80]}"} if len(ids) > length else {}
            return _item(xxhash64(line), ids[:length], targets[:length].tobytes(), **cut)

        return record_batches((item(line) for unit in units_of(batches) for line in json_lines(unit)), _ITEM_SCHEMA)

    return run


def _item(
    item_id: int,
    ids: Sequence[int] | npt.NDArray[np.int32] | None = None,
    targets: bytes | None = None,
    code: str | None = None,
    detail: str | None = None,
) -> dict[str, Any]:
    return {"item_id": item_id, "input_ids": ids, "targets": targets, "code": code, "detail": detail}


def _pack_bucket(tokenizer: WorkerModel, length: int, seed: int) -> Callable[[pa.Table], pa.Table]:
    def run(table: pa.Table) -> pa.Table:
        _, pad_id = pad_and_start(load(tokenizer), None)
        columns = [table[name].combine_chunks() for name in ("item_id", "input_ids", "targets")]
        items = [
            Item(i.as_py(), ids.values.to_numpy(), None if targets.as_py() is None else np.frombuffer(targets.as_py(), np.uint8))
            for i, ids, targets in zip(*columns, strict=True)
        ]
        return feed_table(*pack_items(items, length, pad_id, seed))

    return run
