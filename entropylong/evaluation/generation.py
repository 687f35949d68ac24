"""Prompts in, answers out, kept as they come: a run that is broken goes on after the last whole answer. Pure torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from entropylong.errors import EvaluationError, UsageError
from entropylong.models.causal_lm import Ids, pad_and_start
from entropylong.models.window import window_of
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest, xxhash64
from entropylong.utils.locks import locked


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


class Wording:
    """How a prompt is put to a model: as it is, or as the user's message in its chat template, the prefix behind it.

    Args:
        tokenizer: the model's.
        name: of the model, for messages.
        chat: with the template.

    Raises:
        UsageError: there is no template.
    """

    def __init__(self, tokenizer: Any, name: str, chat: bool) -> None:
        if chat and not tokenizer.chat_template:
            raise UsageError(f"{name}: its tokenizer has no chat template; ask with --no-chat")
        self._tokenizer, self._chat = tokenizer, chat

    def text(self, prompt: Prompt) -> str:
        """With what the template writes; without one the special tokens are not in it."""
        if not self._chat:
            return prompt.text + prompt.prefix
        turn = [{"role": "user", "content": prompt.text}]
        # The prefix is not given to the template as the assistant's turn: templates strip that, and one prefix ends in a space.
        return str(self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)) + prompt.prefix

    def ids(self, prompt: Prompt) -> Ids:
        """What the model reads `[tokens]`: a template brings its special tokens along, else the tokenizer adds its own."""
        return np.array(self._tokenizer(self.text(prompt), add_special_tokens=not self._chat, verbose=False)["input_ids"], np.int32)


def tokenizer_hash(tokenizer: Any) -> str:
    """Of what it does to a text and of its chat template; checkpoints of one model share it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    does = backend.to_str() if backend is not None else [type(tokenizer).__name__, tokenizer.get_vocab()]
    return digest([does, tokenizer.chat_template])


class Backend(Protocol):
    """A model that answers.

    Attributes:
        facts: what a score depends on, for the record.
    """

    facts: dict[str, Any]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that the model cannot read whole, with their answers.

        Raises:
            EvaluationError: one is longer than its window.
        """

    def answers(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, str]]:
        """Each prompt with its answer, without the prompt and without its prefix, as they come and in any order.

        Raises:
            EvaluationError: there is no answer to one, or one cannot be read whole.
        """


class Answers:
    """Answers by key, kept in a file as they come.

    Args:
        file: JSON lines {"key", "answer"}. A line that a kill cut short is taken out of it, and asked for again.

    Raises:
        EvaluationError: it holds something else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.by_key = self._kept()

    def ask(self, prompts: Sequence[Prompt], backend: Backend) -> Iterator[str]:
        """Ask for what is not there yet; gives the key of each new answer once it is kept. Waits where another run is asking."""
        if all(prompt.key in self.by_key for prompt in prompts):
            return
        with locked(f"{self._file}.lock"):
            self.by_key |= self._kept()  # what another run was told meanwhile: the file is written as a whole
            missing = [prompt for prompt in prompts if prompt.key not in self.by_key]
            for prompt, answer in backend.answers(missing):
                self.by_key[prompt.key] = answer
                # All of it each time: a Databricks volume takes no addition to a file. They are hundreds of short lines.
                lines = (json.dumps({"key": key, "answer": text}) + "\n" for key, text in self.by_key.items())
                write_whole(self._file, "".join(lines))
                yield prompt.key

    def _kept(self) -> dict[str, str]:
        file = self._file
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


def generate(
    prompts: Sequence[Prompt], backend: Backend, file: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, str]:
    """Answers by key; those that `file` has already are not asked for again.

    Args:
        prompts: with distinct keys.
        backend: the model.
        file: as `Answers`.
        progress: told (answers so far, answers in all), first how many were there already.

    Raises:
        EvaluationError: an endpoint fails for good; the same call goes on.
    """
    answers = Answers(file)
    done = sum(prompt.key in answers.by_key for prompt in prompts)
    progress(done, len(prompts))
    for _ in answers.ask(prompts, backend):
        done += 1
        progress(done, len(prompts))
    return {prompt.key: answers.by_key[prompt.key] for prompt in prompts}


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
        self._wording = Wording(self.tokenizer, name, decoding.chat)
        self.window = window_of(folder)
        self._folder, self._dtype = folder, dtype
        self._model: Any = None
        self.facts = {"model": name, "model_hash": fingerprint, "dtype": dtype, "backend": "transformers", **vars(decoding)}

    def check(self, prompts: Sequence[Prompt]) -> None:
        """As `Backend`."""
        for prompt in prompts:
            self._sized(prompt)

    def answers(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, str]]:
        """As `Backend`; by length, the longest first: what does not fit is seen at the beginning, and little is padding."""
        for batch in self.batches(prompts):
            yield from zip([prompt for prompt, _ in batch], self._answer(batch), strict=True)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[Prompt, Ids]]]:
        """What is answered together, with what the model reads."""
        sized = sorted(((p, self._sized(p)) for p in prompts), key=lambda pair: (-len(pair[1]) - pair[0].new_tokens, pair[0].key))
        # What is drawn at random must not depend on who else is in the batch.
        most = 1 if self._decoding.temperature else len(sized)
        batch: list[tuple[Prompt, Ids]] = []
        longest = 0
        for prompt, ids in sized:
            is_full = len(batch) == most or longest * (len(batch) + 1) > self._batch_tokens
            if batch and (is_full or prompt.new_tokens != batch[0][0].new_tokens):
                yield batch
                batch = []
            longest = longest if batch else len(ids) + prompt.new_tokens
            batch.append((prompt, ids))
        if batch:
            yield batch

    def _sized(self, prompt: Prompt) -> Ids:
        ids = self._wording.ids(prompt)
        if self.window is not None and len(ids) + prompt.new_tokens > self.window:
            raise EvaluationError(
                f"{self.facts['model']}: reads {self.window:,} tokens, {prompt.key} has {len(ids) + prompt.new_tokens:,} with its "
                "answer, its start token and the chat template, if any; ask for less"
            )
        return ids

    @torch.inference_mode()
    def _answer(self, batch: Sequence[tuple[Prompt, Ids]]) -> list[str]:
        """Answers of a batch, whose prompts may all write equally many tokens."""
        model = self._loaded()
        _, pad = pad_and_start(self.tokenizer, None)
        rows = [ids.tolist() for _, ids in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self._device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self._device)
        hot = self._decoding.temperature > 0
        sampling = {"do_sample": True, "temperature": self._decoding.temperature} if hot else {"do_sample": False}
        first, _ = batch[0]
        settings = GenerationConfig(
            max_new_tokens=first.new_tokens, pad_token_id=pad, eos_token_id=model.generation_config.eos_token_id, **sampling
        )
        torch.manual_seed(xxhash64(self._decoding.seed, first.key) % 2**31)
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


def run_folder(out: Path, backend: Backend, prompts: Any) -> Path:
    """Where the answers of this model to these prompts are kept: another model or prompt has another place."""
    return out / digest([backend.facts, prompts])
