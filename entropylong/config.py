"""The configuration: YAML files and `key.sub=value` overrides in, one frozen typed `Config` out.

conf/base.yaml holds every key with its default and its meaning; the models here hold types, bounds and which keys are
*operational* (they change speed or place, never a result, and are left out of fingerprints).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from entropylong.errors import ConfigError

OPERATIONAL = "operational"
Operational = Field(json_schema_extra={OPERATIONAL: True})
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
NAME = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
CATALOG_SCHEMA = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$")


class Section(BaseModel):
    """A group of keys. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Columns(Section):
    """Which columns of a source hold the text and the id (doc_id null: a hash of the text)."""

    text: str = "text"
    doc_id: str | None = "doc_id"


class Source(Section):
    """One named input. The name is semantic, the path is not: the same data may move."""

    kind: Literal["parquet", "jsonl", "text", "delta", "demo"]
    path: Annotated[str | None, Operational] = None
    table: Annotated[str | None, Operational] = None
    columns: Columns = Columns()
    role: Literal["root", "corpus", "both"] = "both"


class Ingest(Section):
    max_chars: Positive
    unit_bytes: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]


class Roots(Section):
    share: Share
    limit: Positive | None
    min_tokens: Positive
    max_tokens: Positive
    long: Literal["truncate", "skip"]


class Chunks(Section):
    unit: Literal["packed_chars", "document"]
    target_chars: Positive
    max_chars: Positive


class Model(Section):
    name: str
    revision: str | None
    dtype: Literal["float32", "bfloat16"]
    document_start_id: Annotated[int | None, Field(ge=0)]


class Encoder(Section):
    name: str
    revision: str | None
    query_prompt: str
    passage_prompt: str


class Anchors(Section):
    alpha: float
    min_position: Annotated[int, Field(ge=0)]
    min_gap: Positive
    word_start_only: bool
    max_per_root: Positive | None


class Query(Section):
    window: Positive
    side: Literal["both", "left"]


class Retrieval(Section):
    top_k: Positive


class Contexts(Section):
    max_tokens: Positive


class Verify(Section):
    scope: Literal["all", "retrieved"]


class Controls(Section):
    per_root: Annotated[int, Field(ge=0)]


class Accept(Section):
    rule: Literal["specific", "paper"]
    epsilon: Annotated[float, Field(lt=1)]
    min_excess: float
    min_nll_drop: float
    max_copy_tokens: Annotated[int | None, Field(ge=0)]


class Pack(Section):
    recipe: Literal["verified", "noverify"]
    length: Annotated[int, Field(ge=2)]
    layout: Literal["spread", "grouped"]
    order: Literal["shuffle", "anchor_order"]
    filler: Literal["none", "rejected", "random"]
    max_chunk_uses: Positive | None
    buckets: Positive


class Quarantine(Section):
    max_rate: Annotated[float, Field(ge=0, le=1, json_schema_extra={OPERATIONAL: True})]


class Tracking(Section):
    uri: Annotated[str, Operational]
    artifacts: Annotated[str, Operational]
    experiment: Annotated[str, Operational]


class Spark(Section):
    master: Annotated[str, Operational]
    driver_memory: Annotated[str, Operational]
    conf: Annotated[dict[str, str], Operational]


class Run(Section):
    batch_tokens: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    files_per_batch: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    roots_per_unit: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]
    encode_batch: Annotated[int, Field(ge=1, json_schema_extra={OPERATIONAL: True})]


class Config(Section):
    """The whole configuration. `conf/base.yaml` documents each key."""

    workspace: Annotated[str, Operational]
    tables: Annotated[str, Operational]
    node_cache: Annotated[str, Operational]
    seed: int
    separator: str
    sources: dict[str, Source]
    ingest: Ingest
    roots: Roots
    chunks: Chunks
    model: Model
    encoder: Encoder
    anchors: Anchors
    query: Query
    retrieval: Retrieval
    contexts: Contexts
    verify: Verify
    controls: Controls
    accept: Accept
    pack: Pack
    quarantine: Quarantine
    tracking: Tracking
    spark: Spark
    run: Run

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


def generic(key: str) -> str:
    """`sources.docs.path` -> `sources.*.path`: a key without the user's own names."""
    return re.sub(r"^sources\.[^.]+", "sources.*", key)


def walk(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of each leaf. An empty mapping is a leaf."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and path != "spark.conf":
            yield from walk(value, f"{path}.")
        else:
            yield path, value


def keys_of(model: type[BaseModel], prefix: str = "", only_operational: bool = False) -> Iterator[str]:
    """Dotted keys of a model, `sources.*` standing for any source."""
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if name == "sources" and not prefix:
            yield from keys_of(Source, "sources.*.", only_operational)
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


def conf_dir() -> Path:
    """The folder of the shipped config files: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


@dataclass(frozen=True)
class _Layer:
    origin: str
    tree: dict[str, Any]


def load_config(path: str | Path, overrides: Sequence[str] = (), input_path: str | None = None) -> Config:
    """Read a YAML file with its `extends:` chain, apply overrides, validate.

    Args:
        path: the YAML file, or the name of a shipped one.
        overrides: `key.sub=value`, the value in YAML syntax.
        input_path: a path or table that replaces all sources by one (`--input`).

    Raises:
        ConfigError: names the file, the key, the nearest valid key and what to do.
    """
    layers = _layers(config_file(path))
    if input_path is not None:
        layers.append(_Layer("--input", {"sources": input_source(input_path)}))
    layers += [_override(text) for text in overrides]
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _check_keys(layer)
        if layer.origin == "--input":
            tree["sources"] = {}
        _merge(tree, layer.tree)
        origins.update({key: layer.origin for key, _ in walk(layer.tree)})
    _resolve_workspace(tree)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins, str(path))) from None
    _check_combinations(config, origins, str(path))
    return config


def config_file(path: str | Path) -> Path:
    """A path as it is; a bare name (`demo`) is the shipped file of that name."""
    shipped = conf_dir() / f"{path}.yaml"
    return shipped if not Path(path).suffix and not Path(path).exists() and shipped.is_file() else Path(path)


def _layers(path: Path) -> list[_Layer]:
    """The file and all that it extends, base first. Every chain ends at the shipped base.yaml."""
    chain: list[_Layer] = []
    seen: set[Path] = set()
    current: Path | None = path
    base = conf_dir() / "base.yaml"
    while current is not None:
        if not current.is_file():
            raise ConfigError(f"{current}: no such config file; the shipped ones are in {conf_dir()}")
        if current.resolve() in seen:
            raise ConfigError(f"{current}: extends itself; remove one `extends:` of the circle")
        seen.add(current.resolve())
        tree = _read_yaml(current)
        parent = tree.pop("extends", None)
        chain.append(_Layer(str(current), tree))
        is_base = current.resolve() == base.resolve()
        current = _find_parent(str(parent), current) if parent is not None else None if is_base else base
    return chain[::-1]


def _find_parent(name: str, child: Path) -> Path:
    file_name = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    for folder in (child.parent, conf_dir()):
        if (folder / file_name).is_file():
            return folder / file_name
    raise ConfigError(f"{child}: extends {name!r}, but there is no {file_name} beside it or in {conf_dir()}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: must be a mapping of keys, is {type(tree).__name__}")
    return tree


def _override(text: str) -> _Layer:
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"override {text!r}: must be key.sub=value")
    try:
        parsed: Any = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not YAML: {' '.join(str(error).split())}") from None
    name = key.strip()
    parts = ["spark", "conf", name.removeprefix("spark.conf.")] if name.startswith("spark.conf.") else name.split(".")
    if parts[:2] == ["spark", "conf"] and len(parts) == 3:
        parsed = value
    for part in reversed(parts):
        parsed = {part: parsed}
    return _Layer(f"override {text!r}", parsed)


def input_source(path_or_table: str) -> dict[str, Any]:
    """The one source that `--input` stands for: kind by the ending or by what lies there, named after the file."""
    path = Path(path_or_table).expanduser()
    at = path_or_table if "://" in path_or_table else str(path)
    stem = re.sub(r"[^a-z0-9_]+", "_", path.name.split(".")[0].lower()).strip("_")
    name = stem if NAME.match(stem) else f"input_{stem}".rstrip("_")
    if not path.exists() and CATALOG_SCHEMA.match(path_or_table.rpartition(".")[0]):
        return {path_or_table.rpartition(".")[2].lower(): {"kind": "delta", "table": path_or_table}}
    return {name[:64]: {"kind": _kind_of(path), "path": at}}


def _kind_of(path: Path) -> str:
    if (path / "_delta_log").is_dir():
        return "delta"
    names = [path.name] if not path.is_dir() else [p.name for p in sorted(path.rglob("*")) if p.is_file()]
    for kind, endings in SOURCE_ENDINGS.items():
        if any(name.endswith(endings) for name in names):
            return kind
    return "jsonl"


SOURCE_ENDINGS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".ndjson"),
    "text": (".txt", ".md", ".rst"),
}


def _merge(into: dict[str, Any], tree: Mapping[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _check_keys(layer: _Layer) -> None:
    valid = set(keys_of(Config))
    for key, value in walk(layer.tree):
        plain = generic(key)
        if plain in valid or (plain == "sources" and isinstance(value, Mapping)) or plain.startswith("spark.conf"):
            continue
        if any(name.startswith(f"{plain}.") for name in valid):
            if plain == "sources.*" or value is not None:
                raise ConfigError(f"{layer.origin}: key '{key}' must be a mapping of keys, not {value!r}")
            raise ConfigError(f"{layer.origin}: key '{key}' is empty; give its keys or remove it")
        near = difflib.get_close_matches(plain, sorted(valid), n=1, cutoff=0.0)[0]
        raise ConfigError(f"{layer.origin}: unknown key '{key}'; the nearest valid key is '{near}' (conf/base.yaml lists all)")


def _resolve_workspace(tree: dict[str, Any]) -> None:
    workspace = tree.get("workspace")
    if not isinstance(workspace, str):
        return
    tree["workspace"] = workspace = str(Path(workspace).expanduser())
    for section, key in ((tree, "tables"), (tree.get("tracking"), "uri"), (tree.get("tracking"), "artifacts")):
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = section[key].replace("{workspace}", workspace)


def _explain(error: ValidationError, origins: Mapping[str, str], file: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    origin = origins.get(key) or next((o for k, o in origins.items() if k.startswith(f"{key}.")), file)
    given = repr(first.get("input"))
    return f"{origin}: key '{key}': {first['msg']}, got {given if len(given) < 80 else given[:77] + '...'}"


def _check_combinations(config: Config, origins: Mapping[str, str], file: str) -> None:
    def fail(key: str, message: str) -> None:
        raise ConfigError(f"{origins.get(key, file)}: key '{key}': {message}")

    for name, source in config.sources.items():
        if not NAME.match(name):
            fail(f"sources.{name}", "a source's name is lower-case letters, digits and _, starting with a letter")
        if (source.path is None) == (source.table is None):
            fail(f"sources.{name}", "needs either path or table")
        if source.table is not None and source.kind != "delta":
            fail(f"sources.{name}.table", f"only kind delta reads a table, not kind {source.kind}")
    if config.pack.length < config.roots.max_tokens + config.contexts.max_tokens + 64:
        fail(
            "pack.length",
            f"{config.pack.length} cannot hold one root and one context: needs at least roots.max_tokens "
            f"({config.roots.max_tokens}) + contexts.max_tokens ({config.contexts.max_tokens}) + 64",
        )
    if config.roots.min_tokens > config.roots.max_tokens:
        fail("roots.min_tokens", f"{config.roots.min_tokens} is above roots.max_tokens ({config.roots.max_tokens})")
    if config.chunks.max_chars < config.chunks.target_chars:
        fail("chunks.max_chars", f"{config.chunks.max_chars} is below chunks.target_chars ({config.chunks.target_chars})")
