"""The model that is judged: by its name or folder, or at an endpoint, with its window checked before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from entropylong.config import Config
from entropylong.errors import UsageError
from entropylong.evaluation.endpoint import Endpoint
from entropylong.evaluation.generation import Decoding, HuggingFace
from entropylong.models.cache import WorkerModel
from entropylong.models.prepare import ModelSpec, PreparedModel, prepare
from entropylong.models.window import window_of


def reading_model(config: Config, name: str | None, dtype: str, longest: int) -> tuple[WorkerModel, Path]:
    """Give a model that reads so many tokens, and its folder.

    Args:
        config: names the model where `name` is None.
        name: an id, a folder or wheel:package/path.
        dtype: "float32", "bfloat16" or "auto".
        longest: the tokens that it must read.

    Raises:
        UsageError: its window is smaller, or there is no such dtype.
    """
    called, model = _prepared(config, name)
    _check_window(called, window_of(model.path), longest)
    spec = ModelSpec(called, config.model.revision if name is None else None)
    start, threads = config.model.document_start_id, torch.get_num_threads()
    return WorkerModel("causal_lm", spec, model.fingerprint, str(config.cache_folder), _dtype(dtype), start, threads), model.path


def answering_model(
    config: Config, model: str | None, endpoint: str | None, tokenizer: str | None, decoding: Decoding, dtype: str, longest: int,
    option: str = "--length",
) -> tuple[HuggingFace | Endpoint, Any]:  # fmt: skip
    """Give the model that answers, and the tokenizer that counts for it.

    Args:
        config: names the model where `model` is None.
        model: as `reading_model`; with an endpoint its name there.
        endpoint: the server's address.
        tokenizer: with an endpoint, the model's folder or id here.
        decoding: how answers are drawn.
        dtype: of a model that runs here.
        longest: the tokens of a prompt with its answer.
        option: the option that asks for so many.

    Raises:
        UsageError: the window is smaller, or the options do not go together.
    """
    own_dtype = _dtype(dtype)
    if endpoint is not None:
        if model is None or tokenizer is None:
            raise UsageError("--endpoint needs --model, its name there, and --tokenizer, its folder or id here")
        counter = AutoTokenizer.from_pretrained(_prepared(config, tokenizer)[1].path, trust_remote_code=False)
        return Endpoint(endpoint, model, decoding, counter), counter
    if tokenizer is not None:
        raise UsageError("--tokenizer goes with --endpoint; a model of ours has its own")
    name, prepared_model = _prepared(config, model)
    here = HuggingFace(prepared_model.path, name, prepared_model.fingerprint, decoding, own_dtype, config.run.batch_tokens)
    _check_window(name, here.window, longest, option)
    return here, here.tokenizer


def _check_window(name: str, window: int | None, longest: int, option: str = "--length") -> None:
    if window is not None and longest > window:
        raise UsageError(f"{name}: reads {window:,} tokens, {option} asks for {longest:,} in all; extend it, or ask for less")


def _dtype(dtype: str) -> str:
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"--dtype {dtype}: float32, bfloat16 or auto")
    return ("bfloat16" if torch.cuda.is_available() else "float32") if dtype == "auto" else dtype


def _prepared(config: Config, name: str | None) -> tuple[str, PreparedModel]:
    spec = ModelSpec(name) if name is not None else ModelSpec(config.model.name, config.model.revision)
    return spec.name, prepare(spec.absolute(), config.cache_folder)
