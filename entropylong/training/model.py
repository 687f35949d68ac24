"""The model as it is trained: one module from token ids to a sum of losses, sharded by FSDP2. Pure torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

from entropylong.errors import ModelError
from entropylong.training.data.segments import spans
from entropylong.training.loss import blockwise_cross_entropy
from entropylong.training.rope import check_rope, with_rope_base
from entropylong.training.ulysses import NAME, Ulysses


class TrainingModel(nn.Module):
    """A causal LM whose forward pass gives the sum of its losses, so that logits never exist beyond a block of positions.

    Args:
        lm: a transformers causal LM made with `attn_implementation=NAME`.
        block: positions whose logits exist at a time.
    """

    def __init__(self, lm: Any, block: int) -> None:
        super().__init__()
        self.lm, self.block = lm, block

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum of the cross entropy over this rank's part of a sequence.

        Args:
            input_ids, labels: `[1, t]`, the part.
            position_ids: `[1, t]`, in the whole sequence.
            weights: `[1, t]` of the labels; None: 1.
        """
        states = self.lm.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        return blockwise_cross_entropy(
            states[0], labels[0], self.lm.get_output_embeddings(), self.block, None if weights is None else weights[0]
        )


def load_for_training(
    path: Path, *, rope_base: float | None, length: int, block: int, checkpointing: bool, compiled: bool = False
) -> TrainingModel:
    """A model folder as it is trained, in float32: FSDP keeps the master weights and casts for the computation.

    Raises:
        ModelError: its rotary embedding is not as configured.
    """
    config = with_rope_base(AutoConfig.from_pretrained(path, trust_remote_code=False), rope_base, length)
    lm = AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=torch.float32, attn_implementation=NAME, use_safetensors=True, trust_remote_code=False
    )
    check_rope(lm)
    if checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    if compiled:
        for layer in layers_of(lm):
            layer.compile()
    return TrainingModel(lm, block).train()


# What a transformers config may ask for that our attention and head leave out, and the values that ask for nothing.
_LEFT_OUT: dict[str, tuple[object, ...]] = {
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "attention_chunk_size": (None,),
    "logits_scaling": (None, 1, 1.0),
    "logit_scale": (None, 1, 1.0),
}


def check_trainable(path: Path) -> None:
    """Raise where a model attends or gives logits in a way that training here would leave out: it would be another model.

    Raises:
        ModelError: names what stands in its config.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    entries = [f"{key} {getattr(config, key)}" for key, off in _LEFT_OUT.items() if getattr(config, key, None) not in off]
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if kinds != {"full_attention"}:
        entries.append(f"layers of {', '.join(sorted(kinds - {'full_attention'}))}")
    elif window is not None and getattr(config, "layer_types", None) is None:
        entries.append(f"sliding_window {window}")
    if entries:
        raise ModelError(
            f"{path}: a {config.model_type} model with {', '.join(entries)}: training attends causally to all tokens and takes the "
            "head's logits as they are; choose another model (Llama, Qwen and SmolLM work)"
        )


def shard(model: TrainingModel, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
    """FSDP2 over all ranks: each layer by itself, the embeddings and the head with the root. Gradients are reduced in float32."""
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in layers_of(model.lm):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # Its inputs are ids and the weights of losses, which bfloat16 would round.
    fully_shard(model, mesh=mesh, mp_policy=replace(policy, cast_forward_inputs=False))


def layers_of(lm: Any) -> Iterator[nn.Module]:
    """The decoder layers."""
    for module in lm.base_model.children():
        if isinstance(module, nn.ModuleList):
            yield from module


@dataclass(frozen=True)
class Batch:
    """This data-parallel rank's share of a global batch, `[n, T]` each.

    Attributes:
        input_ids, labels: token ids, and the labels, shifted.
        weights: of the labels' losses; None: 1.
        segments: which tokens may attend to each other, in the host's memory; None: all to all before them.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    segments: torch.Tensor | None = None


def gradients(
    model: TrainingModel, batch: Batch, ulysses: Ulysses, ranks: int, offload: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the mean loss over all tokens of a global batch that count, one sequence at a time.

    FSDP averages gradients over all ranks, of data and sequence alike, whatever counts on each: so each rank's sum is divided by
    the global count and multiplied by the number of ranks.

    Args:
        model: sharded, or whole on one rank.
        batch: this rank's share.
        ulysses: the ranks that share a sequence.
        ranks: all of them.
        offload: what the backward pass needs of the forward pass waits in the host's memory.

    Returns:
        The mean loss of the global batch, and how many tokens counted.
    """
    device = batch.input_ids.device
    count = (batch.labels >= 0).sum().float() / ulysses.size
    _sum_over_ranks(count, ranks)
    positions = ulysses.positions(batch.input_ids.shape[1], device)
    total = torch.zeros((), device=device)
    for number in range(len(batch.input_ids)):
        ids, labels = (ulysses.part(whole[number])[None] for whole in (batch.input_ids, batch.labels))
        weights = None if batch.weights is None else ulysses.part(batch.weights[number])[None]
        ulysses.bounds = None if batch.segments is None else spans(batch.segments[number].numpy())
        with save_on_cpu(pin_memory=device.type == "cuda") if offload else nullcontext():
            loss = model(ids, positions, labels, weights)
        (loss * (ranks / count.clamp(min=1))).backward()
        total += loss.detach()
    _sum_over_ranks(total, ranks)
    return total / count.clamp(min=1), count


def _sum_over_ranks(value: torch.Tensor, ranks: int) -> None:
    if ranks > 1:
        torch.distributed.all_reduce(value)
