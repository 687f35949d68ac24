"""Quest's query of a document: what someone who looks for it would ask, as a model predicts it. Pure torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

# Tokens of a document that are read, and of a query.
READ, WRITTEN = 384, 32


class QueryModel:
    """A doc2query model (encoder and decoder), or any causal LM with a prompt.

    Args:
        path: a folder with safetensors.
        device: torch device; None takes the GPU if there is one.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        self._is_causal = not config.is_encoder_decoder
        kind = AutoModelForCausalLM if self._is_causal else AutoModelForSeq2SeqLM
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._words: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model = kind.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
        self._model: Any = model.eval().to(self._device)

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], prompt: str) -> list[str]:
        """A query a text, greedy.

        Args:
            texts: documents; their first 384 tokens are read.
            prompt: with {document} in it, for a causal LM; a doc2query model reads the document alone.
        """
        return [self._one(text, prompt) for text in texts]

    def _one(self, text: str, prompt: str) -> str:
        cut = self._words.decode(self._ids(text)[:READ])
        ids = self._ids(prompt.replace("{document}", cut)) if self._is_causal else self._words(cut, verbose=False)["input_ids"]
        read = torch.tensor([ids], device=self._device)
        settings = GenerationConfig(
            max_new_tokens=WRITTEN, do_sample=False, pad_token_id=self._words.pad_token_id or 0,
            eos_token_id=self._model.generation_config.eos_token_id,
            decoder_start_token_id=self._model.generation_config.decoder_start_token_id,
        )  # fmt: skip
        written = self._model.generate(input_ids=read, attention_mask=torch.ones_like(read), generation_config=settings)[0]
        query = self._words.decode(written[len(ids) if self._is_causal else 0 :], skip_special_tokens=True)
        return str(query.strip().partition("\n")[0])

    def _ids(self, text: str) -> list[int]:
        return list(self._words(text, add_special_tokens=False, verbose=False)["input_ids"])
