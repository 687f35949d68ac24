"""The trained model as a plain transformers folder: safetensors, config, tokenizer. Pure torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save

# What belongs to a model besides weights and config.
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "generation_config.json",
    "chat_template*",
)


def write_weights(weights: dict[str, torch.Tensor], into: Path, shard: str = "5GB") -> None:
    """Shards and their index as transformers reads them.

    Each is written from front to back: huggingface_hub's own function sets a file's size first, which a Databricks volume refuses.
    """
    split = split_torch_state_dict_into_shards(weights, max_shard_size=shard)
    for name, tensors in split.filename_to_tensors.items():
        (into / name).write_bytes(save({tensor: weights[tensor].contiguous() for tensor in tensors}, {"format": "pt"}))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (into / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def export_model(lm: Any, source: Path, target: Path, chat_template: str | None = None) -> None:
    """Gather the weights on the first rank and write them; every rank calls it.

    Args:
        lm: the sharded transformers model.
        source: the folder it came from, for its tokenizer.
        target: replaced as a whole once all is written.
        chat_template: what its tokenizer renders conversations with, if not its own.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in lm.named_parameters():  # tied weights are named once
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        if dist.get_rank() == 0:
            # A copy: what was gathered from uneven shards is a view of a larger storage.
            weights[name] = whole.detach().cpu().clone()
    if dist.get_rank() == 0:
        building = target.with_name(f"{target.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        write_weights(weights, building)
        lm.config.save_pretrained(building)
        for file in (file for pattern in _TOKENIZER for file in source.glob(pattern)):
            shutil.copy(file, building)
        if chat_template is not None:
            (building / "chat_template.jinja").write_text(chat_template)
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    # Not a barrier: NCCL's gives up after ten minutes, and a shared disk may take longer.
    dist.all_reduce(torch.zeros(1))
