"""The base of the rotary embedding, and the proof that a model really computes with it. Pure torch."""

from __future__ import annotations

from typing import Any

import torch

from entropylong.errors import ModelError


def with_rope_base(config: Any, base: float | None, length: int) -> Any:
    """A model's configuration with another RoPE base and room for `length` positions; before the model is constructed.

    transformers ignores `config.rope_theta` on a loaded configuration: the base stands in `rope_parameters`.

    Args:
        config: a transformers configuration; changed in place.
        base: None leaves it.
        length: tokens of a sequence.

    Raises:
        ModelError: the model has no rotary embedding of one base.
    """
    parameters = getattr(config, "rope_parameters", None)
    if base is not None:
        if not isinstance(parameters, dict) or "rope_theta" not in parameters:
            raise ModelError(f"{type(config).__name__}: no single rotary base to change; leave train.rope_base null")
        parameters["rope_theta"] = float(base)
    config.max_position_embeddings = max(length, int(getattr(config, "max_position_embeddings", 0) or 0))
    return config


def rope_frequencies(base: float, width: int) -> torch.Tensor:
    """Inverse frequencies of the plain rotary embedding in float32, `[width / 2]` (Su et al., RoFormer, section 3.2.2)."""
    return 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width))


def check_rope(model: Any) -> None:
    """Compare every rotary table of a model with its configuration: they must be there, in float32 and of its base.

    A table is left as garbage by construction on the meta device, and rounded by `.to(bfloat16)`: 64 radians at position 131,071.

    Raises:
        ModelError: one is not.
    """
    config = model.config
    parameters = config.rope_parameters
    if parameters.get("rope_type", "default") != "default":
        return  # scaled by a rule of its own: transformers computes it
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = rope_frequencies(float(parameters["rope_theta"]), int(width * parameters.get("partial_rotary_factor", 1.0)))
    tables = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    if not tables:
        raise ModelError("the model has no table of rotary frequencies to check")
    for name, table in tables.items():
        if table.dtype != torch.float32 or not torch.allclose(table.cpu(), frequencies, rtol=1e-6, atol=0):
            raise ModelError(
                f"{name}: not the float32 frequencies of base {parameters['rope_theta']:g}; was the model cast or not initialised?"
            )
