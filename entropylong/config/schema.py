"""The configuration: one frozen typed `Config` (loader.py reads it from YAML and `key.sub=value` overrides).

conf/base.yaml holds every key with its default and its meaning; the models here hold types, bounds and which keys are
*operational* (they change speed or place, never a result, and are left out of fingerprints).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from entropylong.config.section import OPERATIONAL, Operational, Positive, Section, Share
from entropylong.config.sources import SourceConfig


class CorpusConfig(Section):
    exclude: Annotated[list[str], Operational]


class IngestConfig(Section):
    max_chars: Positive
    unit_bytes: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]


class RootsConfig(Section):
    share: Share
    limit: Positive | None
    min_tokens: Positive
    max_tokens: Positive
    long: Literal["truncate", "split", "skip"]


class ChunksConfig(Section):
    unit: Literal["packed_chars", "document"]
    target_chars: Positive
    max_chars: Positive


class ModelConfig(Section):
    name: str
    revision: str | None
    dtype: Literal["auto", "float32", "bfloat16"]
    document_start_id: Annotated[int | None, Field(ge=0)]


class EncoderConfig(Section):
    name: str
    revision: str | None
    query_prompt: str
    passage_prompt: str


class AnchorsConfig(Section):
    alpha: float
    min_position: Annotated[int, Field(ge=0)]
    min_gap: Positive
    word_start_only: bool
    max_per_root: Positive | None


class QueryConfig(Section):
    window: Positive
    side: Literal["both", "left"]


class RetrievalConfig(Section):
    top_k: Positive
    mode: Annotated[Literal["auto", "broadcast", "partitioned"], Operational]
    cells: Positive | None
    nprobe: Positive
    min_recall: Annotated[float, Field(ge=0, le=1, json_schema_extra={OPERATIONAL: True})]


class ContextsConfig(Section):
    max_tokens: Positive


# Each has a file of its name in verification/screens.
ScreenName = Literal["none", "left_window"]


class ScreenConfig(Section):
    kind: ScreenName
    window: Positive
    min_gain: Annotated[float, Field(lt=1)]
    sample: Annotated[float, Field(ge=0, le=1)]


class VerifyConfig(Section):
    scope: Literal["all", "retrieved"]
    budget_tokens: Positive | None
    screen: ScreenConfig


class ControlsConfig(Section):
    per_root: Annotated[int, Field(ge=0)]


# Each has a file of its name in verification/rules.
RuleName = Literal["specific", "paper"]


class AcceptConfig(Section):
    rule: RuleName
    epsilon: Annotated[float, Field(lt=1)]
    min_excess: float
    min_nll_drop: float
    max_copy_tokens: Annotated[int | None, Field(ge=0)]


Recipe = Literal["verified", "noverify", "permuted", "nextlong", "quest", "knn", "standard"]


class PackConfig(Section):
    recipe: Recipe
    length: Annotated[int, Field(ge=2)]
    layout: Literal["spread", "grouped"]
    order: Literal["shuffle", "anchor_order"]
    filler: Literal["none", "rejected", "random"]
    max_chunk_uses: Positive | None
    buckets: Positive | Literal["auto"]
    held_out: Annotated[float, Field(ge=0, lt=1)]


class QuestConfig(Section):
    model: str | None
    prompt: Annotated[str, Field(pattern=r"\{document\}")]


class ExperimentConfig(Section):
    seeds: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    learning_rates: Annotated[list[float], Field(min_length=1, json_schema_extra={OPERATIONAL: True})]
    items: Annotated[int, Field(ge=2, json_schema_extra={OPERATIONAL: True})]
    distance: Annotated[tuple[int, int], Field(strict=False, json_schema_extra={OPERATIONAL: True})]
    lengths: Annotated[list[int], Operational]
    samples: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]


class QuarantineConfig(Section):
    max_rate: Annotated[float, Field(ge=0, le=1, json_schema_extra={OPERATIONAL: True})]


class TrackingConfig(Section):
    uri: Annotated[str, Operational]
    artifacts: Annotated[str, Operational]
    experiment: Annotated[str, Operational]


class SparkConfig(Section):
    master: Annotated[str, Operational]
    driver_memory: Annotated[str, Operational]
    conf: Annotated[dict[str, str], Operational]


class RunConfig(Section):
    batch_tokens: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    task_tokens: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    batch_bytes: Annotated[Positive | Literal["auto"], Operational]
    roots_per_unit: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    encode_batch: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    vectors_per_unit: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]


class PlanConfig(Section):
    documents: Annotated[int | None, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    document_tokens: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    chars_per_token: Annotated[float, Field(gt=0, json_schema_extra={OPERATIONAL: True})]
    root_tokens: Annotated[int | None, Field(ge=2, json_schema_extra={OPERATIONAL: True})]
    anchors_per_root: Annotated[float | None, Field(gt=0, json_schema_extra={OPERATIONAL: True})]
    anchors_per_pair: Annotated[float, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    accepted_share: Annotated[float, Field(gt=0, le=1, json_schema_extra={OPERATIONAL: True})]
    proposed_share: Annotated[float, Field(gt=0, le=1, json_schema_extra={OPERATIONAL: True})]
    cores: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    device: Annotated[Literal["here", "B200", "H200", "H100", "A100", "L40S", "L4", "MI300X"], Operational]
    utilisation: Annotated[float, Field(gt=0, le=1, json_schema_extra={OPERATIONAL: True})]
    tokens_per_second: Annotated[float | None, Field(gt=0, json_schema_extra={OPERATIONAL: True})]


class TrainDataConfig(Section):
    """One of the things to train on. What it resolves to (a sealed feed) identifies it, wherever it lies."""

    kind: Literal["sequences", "documents", "chat"]
    weight: Annotated[float, Field(gt=0)] = 1.0
    recipe: Recipe | None = None
    tables: Annotated[str | None, Operational] = None
    fingerprint: str | None = None
    share: Share = 1.0
    path: Annotated[str | None, Operational] = None


class TrainConfig(Section):
    mode: Literal["pretrain", "sft"]
    model: str | None
    data: dict[str, TrainDataConfig]
    loss_on: Literal["all", "assistant"]
    chat_template: str | None
    seed: int | None
    steps: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    final_rate: Annotated[float, Field(ge=0, le=1)]
    warmup: Annotated[float, Field(ge=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip: Annotated[float, Field(gt=0)]
    rope_base: Annotated[float | None, Field(gt=0)]
    dtype: Literal["float32", "bfloat16"]
    anchor_weight: Annotated[float | None, Field(ge=1)]
    launch: Annotated[Literal["local", "cluster"], Operational]
    ranks: Annotated[int | None, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    sequence_parallel: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    attention: Annotated[Literal["sdpa", "varlen"], Operational]
    logits_block: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    checkpoint_activations: Annotated[bool, Operational]
    offload_activations: Annotated[bool, Operational]
    compile: Annotated[bool, Operational]
    save_every: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    keep: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    mfu: Annotated[float, Field(gt=0, le=1, json_schema_extra={OPERATIONAL: True})]


class EvaluateConfig(Section):
    essays: Annotated[str | None, Operational]
    squad: Annotated[str | None, Operational]
    hotpotqa: Annotated[str | None, Operational]
    words: Annotated[str | None, Operational]


class Config(Section):
    """The whole configuration. `conf/base.yaml` documents each key."""

    workspace: Annotated[str, Operational]
    tables: Annotated[str, Operational]
    node_cache: Annotated[str, Operational]
    seed: int
    separator: str
    sources: dict[str, SourceConfig]
    canaries: Annotated[int, Field(ge=0, json_schema_extra={OPERATIONAL: True})]
    corpus: CorpusConfig
    ingest: IngestConfig
    roots: RootsConfig
    chunks: ChunksConfig
    model: ModelConfig
    encoder: EncoderConfig
    anchors: AnchorsConfig
    query: QueryConfig
    retrieval: RetrievalConfig
    contexts: ContextsConfig
    verify: VerifyConfig
    controls: ControlsConfig
    accept: AcceptConfig
    pack: PackConfig
    quest: QuestConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    experiment: ExperimentConfig
    quarantine: QuarantineConfig
    tracking: TrackingConfig
    spark: SparkConfig
    run: RunConfig
    plan: PlanConfig

    @property
    def cache_folder(self) -> Path:
        """`node_cache`, for a process with any working directory."""
        return Path(self.node_cache).expanduser().absolute()

    def with_keys(self, **sections: dict[str, Any]) -> Config:
        """The same with some keys of its sections changed, which are not validated again."""
        changed = {name: getattr(self, name).model_copy(update=keys) for name, keys in sections.items()}
        return self.model_copy(update=changed)

    def semantic(self, *paths: str) -> dict[str, Any]:
        """The values of the semantic keys at or below the dotted paths, for a fingerprint."""
        values = dict(walk(self.model_dump()))
        operational = set(operational_keys())
        return {
            key: value
            for key, value in values.items()
            if generic(key) not in operational
            and any(name == p or name.startswith(f"{p}.") for p in paths for name in (key, generic(key)))
        }

    def sources_with_role(self, role: Literal["root", "corpus"]) -> list[str]:
        """Names of the sources that serve as roots, or as corpus, in name order."""
        return sorted(name for name, source in self.sources.items() if source.role in (role, "both"))


# Sections whose keys the user names, and what is below each name.
NAMED: dict[str, type[Section]] = {"sources": SourceConfig, "train.data": TrainDataConfig}


def generic(key: str) -> str:
    """`sources.docs.path` -> `sources.*.path`: a key without the user's own names."""
    return re.sub(r"^(sources|train\.data)\.[^.]+", r"\1.*", key)


def walk(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of each leaf. An empty mapping is a leaf."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and path != "spark.conf":
            yield from walk(value, f"{path}.")
        else:
            yield path, value


def keys_of(model: type[BaseModel], prefix: str = "", only_operational: bool = False) -> Iterator[str]:
    """Dotted keys of a model, `sources.*` standing for any source, `train.data.*` for any data."""
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if (named := NAMED.get(f"{prefix}{name}")) is not None:
            yield from keys_of(named, f"{prefix}{name}.*.", only_operational)
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from keys_of(annotation, f"{prefix}{name}.", only_operational)
        else:
            extra = field.json_schema_extra
            marked = isinstance(extra, dict) and bool(extra.get(OPERATIONAL))
            if marked or not only_operational:
                yield f"{prefix}{name}"


def operational_keys() -> list[str]:
    """Keys that are left out of fingerprints."""
    return list(keys_of(Config, only_operational=True))
