"""YAML files with their `extends:` chains, `--input` and `key.sub=value` overrides in, a checked `Config` out.

Every mistake is told in one line: the file or override, the key, the nearest valid key, what to do.
"""

from __future__ import annotations

import atexit
import difflib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from entropylong.config.schema import NAMED, Config, TrainConfig, TrainDataConfig, generic, keys_of, walk
from entropylong.config.section import CATALOG_SCHEMA, NAME, TABLE
from entropylong.config.sources import CANARY_FACTS, CANARY_ROOTS, TABLE_SOURCES, SourceKind, input_source
from entropylong.errors import ConfigError

# Keys of earlier versions: the value that is retired (None: the whole key), and what to do.
RETIRED: dict[str, tuple[str | None, str]] = {
    "run.files_per_batch": (None, "a commit takes run.batch_bytes of its input; auto, the default, suits the cores there are"),
    "verify.order": (None, "a budget visits candidates by rank; remove the key"),
    "verify.screen.model": (None, "no second model screens; remove the key"),
    "verify.screen.kind": ("small_model", "give left_window or none, and remove verify.screen.model"),
}


def conf_dir() -> Path:
    """The folder of the shipped config files: inside the wheel, or beside the package in a checkout."""
    package = resources.files("entropylong")
    if isinstance(package, Path):
        return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
    return _unzipped()


@cache
def _unzipped() -> Path:
    """Of a wheel that is imported as it is (spark-submit --py-files)."""
    folder = Path(tempfile.mkdtemp(prefix="entropylong-conf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (resources.files("entropylong") / "conf").iterdir():
        if file.name.endswith(".yaml"):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


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
    _resolve_workspace(tree, origins)
    _plant_canaries(tree)
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
    paths: set[Path] = set()
    current: Path | None = path
    base = conf_dir() / "base.yaml"
    while current is not None:
        if not current.is_file():
            raise ConfigError(f"{current}: no such config file; the shipped ones are in {conf_dir()}")
        if current.resolve() in paths:
            raise ConfigError(f"{current}: extends itself; remove one `extends:` of the circle")
        paths.add(current.resolve())
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
        tree = _yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: must be a mapping of keys, is {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-5 is a number, which YAML 1.1 takes for text without a point in it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def split_values(text: str) -> tuple[str, list[Any]]:
    """`key=value,value` -> the key and its values, each read as an override's value is.

    Raises:
        ConfigError: there is no key, or no value.
    """
    key, separator, values = text.partition("=")
    if not separator or not key.strip() or not values.strip():
        raise ConfigError(f"{text!r}: must be key.sub=value,value,...")
    return key.strip(), [_value(f"{key}={value}", value) for value in values.split(",")]


def _override(text: str) -> _Layer:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"override {text!r}: must be key.sub=value")
    parsed = _value(text, value)
    name = key.strip()
    parts = ["spark", "conf", name.removeprefix("spark.conf.")] if name.startswith("spark.conf.") else name.split(".")
    if parts[:2] == ["spark", "conf"] and len(parts) == 3:
        parsed = value
    for part in reversed(parts):
        parsed = {part: parsed}
    return _Layer(f"override {text!r}", parsed)


def _value(text: str, value: str) -> Any:
    try:
        return _yaml(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not YAML: {' '.join(str(error).split())}") from None


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
        _check_retired(layer.origin, key, value)
        if plain in valid or (plain in NAMED and isinstance(value, Mapping)) or plain.startswith("spark.conf"):
            continue
        if any(name.startswith(f"{plain}.") for name in valid):
            if plain.endswith(".*") or value is not None:
                raise ConfigError(f"{layer.origin}: key '{key}' must be a mapping of keys, not {value!r}")
            raise ConfigError(f"{layer.origin}: key '{key}' is empty; give its keys or remove it")
        near = difflib.get_close_matches(plain, sorted(valid), n=1, cutoff=0.0)[0]
        raise ConfigError(f"{layer.origin}: unknown key '{key}'; the nearest valid key is '{near}' (conf/base.yaml lists all)")


def _check_retired(origin: str, key: str, value: Any) -> None:
    if key not in RETIRED:
        return
    retired, advice = RETIRED[key]
    if retired is None:
        raise ConfigError(f"{origin}: key '{key}' is retired: {advice}")
    if value == retired:
        raise ConfigError(f"{origin}: key '{key}': {retired} is retired: {advice}")


def _resolve_workspace(tree: dict[str, Any], origins: Mapping[str, str]) -> None:
    workspace = tree.get("workspace")
    if not isinstance(workspace, str):
        return
    if "://" in workspace:  # as a path it would be a folder of that name on one machine
        raise ConfigError(
            f"{origins['workspace']}: key 'workspace': {workspace!r} is not a folder; give one that every node mounts (only tables "
            "may be a URL)"
        )
    tree["workspace"] = workspace = str(Path(workspace).expanduser())
    for section, key in ((tree, "tables"), (tree.get("tracking"), "uri"), (tree.get("tracking"), "artifacts")):
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = section[key].replace("{workspace}", workspace)


def _plant_canaries(tree: dict[str, Any]) -> None:
    count, sources = tree.get("canaries"), tree.get("sources")
    if isinstance(count, int) and count > 0 and isinstance(sources, dict):
        for role, side in (("root", CANARY_ROOTS), ("corpus", CANARY_FACTS)):
            sources[f"canary_{side}"] = {"kind": SourceKind.CANARIES, "path": f"{side}:{count}", "role": role}


def _explain(error: ValidationError, origins: Mapping[str, str], file: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    origin = origins.get(key) or next((o for k, o in origins.items() if k.startswith(f"{key}.")), file)
    value = repr(first.get("input"))
    return f"{origin}: key '{key}': {first['msg']}, got {value if len(value) < 80 else value[:77] + '...'}"


def _check_combinations(config: Config, origins: Mapping[str, str], file: str) -> None:
    def fail(key: str, message: str) -> None:
        raise ConfigError(f"{origins.get(key, file)}: key '{key}': {message}")

    _check_tables("tables", config.tables, fail)
    for name, source in config.sources.items():
        if not NAME.match(name):
            fail(f"sources.{name}", "a source's name is lower-case letters, digits and _, starting with a letter")
        if (source.path is None) == (source.table is None):
            fail(f"sources.{name}", "needs either path or table")
        if source.table is not None and not TABLE.match(source.table):
            fail(
                f"sources.{name}.table",
                f"{source.table!r} is not a table name like catalog.schema.table; a directory goes under path",
            )
        if source.table is not None and source.kind not in TABLE_SOURCES:
            fail(f"sources.{name}.table", f"only kind {' or '.join(TABLE_SOURCES)} reads a table, not kind {source.kind}")
    if config.pack.length < config.roots.max_tokens + config.contexts.max_tokens + 64:
        fail(
            "pack.length",
            f"{config.pack.length} cannot hold one root and one context: needs at least roots.max_tokens "
            f"({config.roots.max_tokens}) + contexts.max_tokens ({config.contexts.max_tokens}) + 64",
        )
    if config.roots.min_tokens > config.roots.max_tokens:
        fail("roots.min_tokens", f"{config.roots.min_tokens} is above roots.max_tokens ({config.roots.max_tokens})")
    if config.roots.long == "split" and 2 * config.roots.min_tokens > config.roots.max_tokens + 1:
        fail(
            "roots.min_tokens",
            f"{config.roots.min_tokens} is above half of roots.max_tokens ({config.roots.max_tokens}): with roots.long split, a "
            "text just longer than that gives two pieces of half its length",
        )
    if config.chunks.max_chars < config.chunks.target_chars:
        fail("chunks.max_chars", f"{config.chunks.max_chars} is below chunks.target_chars ({config.chunks.target_chars})")
    if config.train.mode == "sft" and config.train.anchor_weight is not None:
        fail("train.anchor_weight", "weighs verified anchors of sequences; conversations (train.mode sft) have none")
    if config.train.offload_activations and not config.train.checkpoint_activations:
        fail(
            "train.offload_activations", "moves each layer's input; without train.checkpoint_activations it would move the weights"
        )
    for name, data in config.train.data.items():
        _check_data(name, data, config.train, fail)


def _check_tables(key: str, tables: str, fail: Callable[[str, str], None]) -> None:
    """A name that is none would be taken for a directory, and its tables written beside the program."""
    if "/" not in tables and re.search(r"[.`;\s]", tables) and not CATALOG_SCHEMA.match(tables) and not Path(tables).exists():
        fail(key, f"{tables!r} is neither catalog.schema nor a directory (one with such characters is written ./{tables})")


def _check_data(name: str, data: TrainDataConfig, train: TrainConfig, fail: Callable[[str, str], None]) -> None:
    key = f"train.data.{name}"
    if not NAME.match(name):
        fail(key, "a name is lower-case letters, digits and _, starting with a letter")
    if (data.kind == "chat") != (train.mode == "sft"):
        fail(
            f"{key}.kind", f"train.mode {train.mode} does not train on kind {data.kind} (chat: sft; sequences, documents: pretrain)"
        )
    if (data.path is None) == (data.kind == "chat"):
        fail(
            f"{key}.path",
            "kind chat needs a JSON lines file or a folder of them" if data.kind == "chat" else "only kind chat has one",
        )
    if data.kind != "sequences" and (data.recipe or data.tables or data.fingerprint):
        fail(key, f"recipe, tables and fingerprint belong to kind sequences, not to {data.kind}")
    if data.kind != "documents" and data.share != 1.0:
        fail(f"{key}.share", f"belongs to kind documents, not to {data.kind}")
    if data.recipe and data.fingerprint:
        fail(f"{key}.recipe", "the fingerprint says it already; give one of the two")
    if data.tables:
        _check_tables(f"{key}.tables", data.tables, fail)
    if data.tables and not data.fingerprint:
        fail(f"{key}.tables", "needs the fingerprint of the sequences there (entropylong status in their workspace shows it)")
