"""Prompts in, answers out, kept as they come: a run that is broken goes on after the last whole answer. Pure torch and HTTP."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import requests
import torch
from requests.adapters import HTTPAdapter
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar
from urllib3.util.retry import Retry

from entropylong.errors import EvaluationError, UsageError
from entropylong.files import write_whole
from entropylong.hashing import digest, xxhash64
from entropylong.models.causal_lm import pad_and_start
from entropylong.models.window import window_of

# Requests that an endpoint answers at a time, and seconds until one counts as lost.
AT_ONCE, TIMEOUT = 8, 900
KEY_VARIABLE = "OPENAI_API_KEY"
SCORES, ITEMS = "scores.json", "items.json"
# By question: its score and what that weighs in the benchmark's figure.
Items = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
        key: names it among the prompts of its run.
        text: what it reads; of a chat model the user's message.
        prefix: how its answer begins; of a chat model it opens the assistant's turn.
        new_tokens: that it may write.
    """

    key: str
    text: str
    prefix: str
    new_tokens: int


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn: temperature 0 is greedy; chat puts the model's template around the prompt."""

    chat: bool = False
    temperature: float = 0.0
    seed: int = 42


class Backend(Protocol):
    """A model that answers.

    Attributes:
        facts: what a score depends on, for the record.
    """

    facts: dict[str, Any]

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        """The prompts in groups that are answered together."""

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """An answer a prompt, without the prompt and without its prefix."""


def generate(
    prompts: Sequence[Prompt], backend: Backend, file: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, str]:
    """Answers by key; those that `file` has already are not asked for again.

    Args:
        prompts: with distinct keys.
        backend: the model.
        file: JSON lines {"key", "answer"}, added to batch by batch.
        progress: told (answers so far, answers in all).

    Raises:
        EvaluationError: an endpoint fails for good; the same call goes on.
    """
    answers = _kept(file)
    open_ = [prompt for prompt in prompts if prompt.key not in answers]
    done = len(prompts) - len(open_)
    progress(done, len(prompts))
    with file.open("a") as log:
        for batch in backend.batches(open_):
            for prompt, answer in zip(batch, backend.answer(batch), strict=True):
                answers[prompt.key] = answer
                log.write(json.dumps({"key": prompt.key, "answer": answer}) + "\n")
            log.flush()
            os.fsync(log.fileno())
            done += len(batch)
            progress(done, len(prompts))
    return {prompt.key: answers[prompt.key] for prompt in prompts}


def _kept(file: Path) -> dict[str, str]:
    """What a file holds. A line that a kill cut short is taken out of it, and asked for again."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        return {}
    whole, _, rest = file.read_bytes().rpartition(b"\n")
    if rest:
        write_whole(file, whole + b"\n" if whole else b"")
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
        return {row["key"]: row["answer"] for row in rows}
    except (ValueError, KeyError, TypeError):
        raise EvaluationError(f"{file}: holds a line that is no answer; remove it to ask again") from None


class HuggingFace:
    """A model folder, run here.

    Args:
        folder: of the model, as `prepare` gives it.
        name, fingerprint: what the record calls it.
        decoding: how answers are drawn.
        dtype: "bfloat16" or "float32".
        batch_tokens: of a batch, padding and new tokens included; at least one prompt.
    """

    def __init__(
        self, folder: Path, name: str, fingerprint: str, decoding: Decoding, dtype: str = "float32", batch_tokens: int = 8192
    ) -> None:
        self._decoding, self._batch_tokens = decoding, batch_tokens
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if decoding.chat and not self.tokenizer.chat_template:
            raise UsageError(f"{name}: has no chat template; leave --chat out")
        self.window = window_of(folder)
        self._folder, self._dtype = folder, dtype
        self._model: Any = None
        self.facts = {"model": name, "model_hash": fingerprint, "dtype": dtype, "backend": "transformers", **vars(decoding)}

    def ids(self, prompt: Prompt) -> list[int]:
        """What the model reads: the tokenizer's own special tokens, then the text; the answer's prefix last."""
        if not self._decoding.chat:
            return list(self.tokenizer(prompt.text + prompt.prefix, verbose=False)["input_ids"])
        turn = [{"role": "user", "content": prompt.text}]
        text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) + prompt.prefix
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        """By length, the longest first: what does not fit is seen at the beginning, and little is padding."""
        sized = sorted(((len(self.ids(p)) + p.new_tokens, p) for p in prompts), key=lambda pair: (-pair[0], pair[1].key))
        # What is drawn at random must not depend on who else is in the batch.
        most = 1 if self._decoding.temperature else len(sized)
        batch: list[Prompt] = []
        longest = 0
        for size, prompt in sized:
            is_full = len(batch) == most or longest * (len(batch) + 1) > self._batch_tokens
            if batch and (is_full or prompt.new_tokens != batch[0].new_tokens):
                yield batch
                batch = []
            longest = longest if batch else size
            batch.append(prompt)
        if batch:
            yield batch

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """As `Backend`. All of them may write equally many tokens."""
        model = self._loaded()
        _, pad = pad_and_start(self.tokenizer, None)
        rows = [self.ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self._device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self._device)
        hot = self._decoding.temperature > 0
        drawn = {"do_sample": True, "temperature": self._decoding.temperature} if hot else {"do_sample": False}
        settings = GenerationConfig(
            max_new_tokens=prompts[0].new_tokens, pad_token_id=pad, eos_token_id=model.generation_config.eos_token_id, **drawn
        )
        torch.manual_seed(xxhash64(self._decoding.seed, prompts[0].key) % 2**31)
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, longest:]
        return list(self.tokenizer.batch_decode(written, skip_special_tokens=True))

    def _loaded(self) -> Any:
        if self._model is None:
            if not sys.stderr.isatty():
                disable_progress_bar()  # bars are for terminals
            model = AutoModelForCausalLM.from_pretrained(
                self._folder, dtype=getattr(torch, self._dtype), use_safetensors=True, trust_remote_code=False
            )
            # Nothing else of what it ships: a penalty on repetition would punish the very answers that are asked for.
            model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
            self._model = model.eval().to(self._device)
        return self._model


class Endpoint:
    """A server that speaks OpenAI's completions (vLLM and the like). A key, if it wants one, is in OPENAI_API_KEY.

    Args:
        url: up to and with /v1.
        model: what the server calls it.
        decoding: how answers are drawn.
        retries: of a request that is refused for the moment or cut off.

    Raises:
        UsageError: the address is not one of HTTP.
    """

    def __init__(self, url: str, model: str, decoding: Decoding, retries: int = 5) -> None:
        if not url.startswith(("http://", "https://")) or "@" in url:
            raise UsageError(f"--endpoint {url.rpartition('@')[2]}: give http(s)://HOST/v1, and a key in {KEY_VARIABLE}")
        self._url, self._model, self._decoding = url.rstrip("/"), model, decoding
        self._session = requests.Session()
        again = Retry(total=retries, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=again, pool_maxsize=AT_ONCE))
        if key := os.environ.get(KEY_VARIABLE):
            self._session.headers["Authorization"] = f"Bearer {key}"
        self.facts = {"model": model, "model_hash": None, "backend": "endpoint", **vars(decoding)}

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        """In the order given, as many as are asked at a time."""
        for start in range(0, len(prompts), AT_ONCE):
            yield prompts[start : start + AT_ONCE]

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """As `Backend`; requests run beside each other."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._ask, prompts))

    def _ask(self, prompt: Prompt) -> str:
        asked: dict[str, Any] = {
            "model": self._model, "max_tokens": prompt.new_tokens, "temperature": self._decoding.temperature,
            "seed": self._decoding.seed,
        }  # fmt: skip
        if self._decoding.chat:
            turns = [{"role": "user", "content": prompt.text}]
            if prompt.prefix:
                turns.append({"role": "assistant", "content": prompt.prefix})
                asked |= {"continue_final_message": True, "add_generation_prompt": False}
            asked["messages"] = turns
        else:
            asked["prompt"] = prompt.text + prompt.prefix
        try:
            reply = self._session.post(
                f"{self._url}/{'chat/' if self._decoding.chat else ''}completions", json=asked, timeout=TIMEOUT
            )
            reply.raise_for_status()
            choice = reply.json()["choices"][0]
            return str((choice["message"]["content"] if self._decoding.chat else choice["text"]) or "")
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise EvaluationError(
                f"endpoint {self._url}: no answer to {prompt.key} ({reason}); what came before is kept, the same command goes on"
            ) from None


@dataclass(frozen=True)
class Result:
    """What an evaluation gave.

    Attributes:
        folder: of its prompts, answers and scores.
        facts: what the scores depend on; among them benchmark, model and model_hash (None: nobody told).
        figures: scores by name.
    """

    folder: Path
    facts: dict[str, Any]
    figures: dict[str, float]

    def kept(self, scores: Sequence[Any], items: Items) -> Result:
        """The same, written to scores.json with the scores in detail; and to items.json, for which models can be paired.

        Args:
            scores: in detail.
            items: the score of each single question.
        """
        write_whole(self.folder / ITEMS, json.dumps({key: list(pair) for key, pair in items.items()}))
        whole = {"facts": self.facts, "figures": self.figures, "scores": list(scores)}
        write_whole(self.folder / SCORES, json.dumps(whole, indent=1))
        return self


def run_folder(out: Path, backend: Backend, asked: Any) -> Path:
    """Where the answers of this model to these prompts are kept: another model or prompt has another place."""
    return out / digest([backend.facts, asked])
