"""One model of a kind a Python worker (a screen's small LM is a kind of its own).

It is loaded at first use, kept for the next task and stage, and replaced by another of its kind.
Runs on executors. A specification travels there instead of a model; nothing is pickled but names.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from entropylong.errors import ModelError
from entropylong.models.prepare import ModelSpec, prepare


@dataclass(frozen=True)
class WorkerModel:
    """What a worker needs to load a model: its kind, name, the fingerprint that the driver saw, and how to run it."""

    kind: Literal["causal_lm", "encoder", "tokenizer", "screen_lm"]
    spec: ModelSpec
    fingerprint: str
    node_cache: str
    dtype: str = "float32"
    document_start_id: int | None = None
    threads: int = 1

    def tokenizer(self) -> WorkerModel:
        """The tokenizer of this causal LM alone, without its weights."""
        return replace(self, kind="tokenizer")


_loaded: dict[str, tuple[WorkerModel, Any]] = {}


def load(model: WorkerModel) -> Any:
    """The model of this worker process: a `CausalLM`, an `Encoder` or a tokenizer.

    Raises:
        ModelError: this node's files are not those that the driver fingerprinted.
    """
    current = _loaded.get(model.kind)
    if current is not None and current[0] == model:
        return current[1]
    if _loaded.pop(model.kind, None) is not None:
        gc.collect()  # two causal LMs at once would double a worker's memory: the old one goes first
    value = _load(model)
    _loaded[model.kind] = (model, value)
    return value


def _load(model: WorkerModel) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(model.threads)
    prepared = prepare(model.spec, Path(model.node_cache))
    if prepared.fingerprint != model.fingerprint:
        raise ModelError(f"{model.spec.name}: this node has other files than the driver; remove {prepared.path} here and run again")
    if model.kind == "encoder":
        from entropylong.models.encoder import Encoder

        return Encoder(prepared.path)
    if model.kind == "tokenizer":
        return transformers.AutoTokenizer.from_pretrained(prepared.path, trust_remote_code=False)
    from entropylong.models.causal_lm import CausalLM

    return CausalLM(prepared.path, model.dtype, model.document_start_id)
