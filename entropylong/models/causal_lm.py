"""The causal LM: token ids in, hidden states and logits out. Pure torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from entropylong.errors import ModelError
from entropylong.models.compiled import compile_layers, eager
from entropylong.models.linear import linear, pack_linears
from entropylong.models.shape import shape_of

Ids = npt.NDArray[np.int32]

# A GPU wants large batches. A CPU has nothing to win by them, and larger activations leave its caches: a fifth of the speed.
CPU_BATCH_TOKENS, MOST_TOKENS = 1024, 2**31

# Of each layer, `[1, heads, tokens, width]`.
KeyValues = list[tuple[torch.Tensor, torch.Tensor]]


class CausalLM:
    """A causal language model in evaluation mode. The body runs in `dtype`, the head and the logits in float32.

    Args:
        path: a folder with config.json, tokenizer.json and safetensors weights.
        dtype: "float32" or "bfloat16", of the body.
        document_start_id: the token that started documents in pre-training; None takes the tokenizer's BOS.
        device: torch device; None takes the GPU if there is one.

    Attributes:
        prefix: the ids that stand before a document when it is scored: the start token, if the model has one.
        pad_id: what padding holds.
        shape: the model's dimensions, to tell what a pass costs.
        token_limit: the largest forward batch that serves, in padded tokens: what fitted so far, and what a CPU's caches hold.

    Raises:
        ModelError: the folder holds no causal LM with safetensors, or its logits are more than head(body(x)).
    """

    def __init__(
        self, path: str | Path, dtype: str = "float32", document_start_id: int | None = None, device: str | None = None
    ) -> None:
        self.path = Path(path)
        config = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        architectures = config.architectures or []
        if not any("CausalLM" in name or "LMHead" in name for name in architectures):
            raise ModelError(
                f"{path}: is {', '.join(architectures) or 'of no stated architecture'}, not a causal LM; put it under encoder.name?"
            )
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = getattr(torch, dtype)
        self.token_limit = CPU_BATCH_TOKENS if self.device.type == "cpu" else MOST_TOKENS
        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=self.dtype, use_safetensors=True, trust_remote_code=False)
        model.eval().to(self.device)
        self.body: Any = model.base_model
        self._head = self._make_head(model.get_output_embeddings())
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.shape = shape_of(self.path)
        self.window = int(getattr(config, "max_position_embeddings", 0) or 0)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        start_ids, self.pad_id = pad_and_start(self.tokenizer, document_start_id)
        self.prefix: list[int] = list(start_ids)
        if any(i >= self.vocabulary for i in start_ids):
            raise ModelError(f"model.document_start_id {document_start_id} is outside the vocabulary of {self.vocabulary}")
        self._pack_and_check(model)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens disallowed: "<|endoftext|>" in a document is text."""
        return encode_plain(self.tokenizer, text)

    def _pack_and_check(self, model: Any) -> None:
        """Pack the body's layers; then logit scaling or soft-capping would make our logits wrong: compare with the model's own."""
        ids = torch.arange(min(16, self.vocabulary), device=self.device)[None]
        with torch.inference_mode():
            own = model(input_ids=ids, use_cache=False).logits[0].float()
            pack_linears(self.body)
            ours = self.logits(self.hidden(ids)[0])
        # A difference by a rounding of the body's dtype is expected; a scale or a cap moves logits by far more.
        if not torch.allclose(own, ours, rtol=2e-2, atol=2e-2 * float(own.abs().max())):
            raise ModelError(
                f"{self.path}: its logits are not head(hidden states) (scaling or soft-capping?); such models are not supported"
            )
        if self.device.type == "cuda":
            trial = ids.expand(2, -1)
            with torch.inference_mode():
                compile_layers(self.body, lambda: self.hidden(trial))

    def hidden(self, ids: torch.Tensor, after: KeyValues | None = None) -> torch.Tensor:
        """Last hidden states `[batch, time, width]` of right-padded ids `[batch, time]`.

        The model is causal, so padding on the right needs no mask: it only reaches rows that nobody reads.

        Args:
            ids: token ids on any device.
            after: keys and values of tokens that stand in front of every sequence.
        """
        states: torch.Tensor
        if after is None:
            states = self.body(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        else:
            cache = DynamicCache([(k.expand(len(ids), -1, -1, -1), v.expand(len(ids), -1, -1, -1)) for k, v in after])
            with eager():
                states = self.body(input_ids=ids.to(self.device), past_key_values=cache, use_cache=True).last_hidden_state
        return states

    @torch.inference_mode()
    def keys_values(self, ids: Sequence[int] | Ids) -> KeyValues:
        """Keys and values of a sequence's tokens, a pair of `[1, heads, tokens, width]` a layer, for `hidden(after=...)`."""
        batch = torch.tensor(np.asarray(ids, np.int64)[None], device=self.device)
        with eager():
            cache = self.body(input_ids=batch, use_cache=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits `[rows, vocabulary]` of hidden states `[rows, width]`."""
        return self._head(hidden)

    def _make_head(self, head: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        weight = head.weight.detach()
        bias = None if getattr(head, "bias", None) is None else head.bias.detach().float()
        if self.device.type == "cuda" and weight.dtype == torch.bfloat16 and torch.__version__ >= "2.8":
            # bf16 times bf16, summed and kept in fp32: the same numbers as an fp32 head, at the speed of bf16. (An older torch,
            # as that of runtime 17.3 LTS ML, cannot: there it is an fp32 head.)
            def mixed(hidden: torch.Tensor) -> torch.Tensor:
                logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
                return logits if bias is None else logits + bias

            return mixed
        product = linear(weight.float(), bias)
        return lambda hidden: product(hidden.float())


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids with no special token added or recognised."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def pad_and_start(tokenizer: Any, document_start_id: int | None) -> tuple[tuple[int, ...], int]:
    """The ids that start a document (none if neither given nor declared), and the pad id: the tokenizer's, else EOS, else 0."""
    start = tokenizer.bos_token_id if document_start_id is None else document_start_id
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return (() if start is None else (int(start),)), int(pad)
