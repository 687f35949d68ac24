"""A model at a server that speaks OpenAI's completions (vLLM and the like). Pure HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from entropylong.errors import EvaluationError, UsageError
from entropylong.evaluation.generation import Decoding, Prompt, Wording, tokenizer_hash

# Requests that are open at a time. Eight prompts of 128K keep a slow server busy for minutes before the last is answered; one that
# says nothing for ten is taken for lost, and asked once more. A server that is not there is known in seconds.
AT_ONCE = 8
CONNECT_SECONDS, ANSWER_SECONDS, SILENT_RETRIES = 10, 600, 1
KEY_VARIABLE = "OPENAI_API_KEY"


class Endpoint:
    """A server. A key, if it wants one, is in OPENAI_API_KEY.

    Args:
        url: up to and with /v1.
        model: what the server calls it.
        decoding: how answers are drawn. The chat template is the tokenizer's and is put around the prompt here, not there.
        tokenizer: the model's.
        retries: of a request that is refused for the moment or cut off.

    Raises:
        UsageError: the address is not one of HTTP or holds a credential, or there is no chat template.
    """

    def __init__(self, url: str, model: str, decoding: Decoding, tokenizer: Any, retries: int = 5) -> None:
        if not url.startswith(("http://", "https://")) or "@" in url or "?" in url:
            plain = url.rpartition("@")[2].partition("?")[0]
            raise UsageError(f"--endpoint {plain}: give http(s)://HOST/v1, and a key in {KEY_VARIABLE}")
        self._url, self._model, self._decoding = url.rstrip("/"), model, decoding
        self._wording = Wording(tokenizer, model, decoding.chat)
        self._session = requests.Session()
        again = Retry(
            total=retries, read=min(retries, SILENT_RETRIES), backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=again, pool_maxsize=AT_ONCE))
        if key := os.environ.get(KEY_VARIABLE):
            self._session.headers["Authorization"] = f"Bearer {key}"
        # A name says little of a model there, and nobody tells its hash: two servers are two models.
        self.facts = {"model": model, "model_hash": None, "backend": "endpoint", "endpoint": self._url,
                      "tokenizer_hash": tokenizer_hash(tokenizer), **vars(decoding)}  # fmt: skip

    def check(self, prompts: Sequence[Prompt]) -> None:
        """As `Backend`: only the server knows its window, and refuses what is longer."""

    def answers(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, str]]:
        """As `Backend`; requests run beside each other. When one fails, those that are open are still waited for."""
        failed: list[EvaluationError] = []

        def ask(prompt: Prompt) -> str | None:
            if failed:
                return None
            try:
                return self._ask(prompt)
            except EvaluationError as error:
                failed.append(error)
                return None

        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            futures = {pool.submit(ask, prompt): prompt for prompt in prompts}
            for future in as_completed(futures):
                if (answer := future.result()) is not None:
                    yield futures[future], answer
        finally:
            pool.shutdown(cancel_futures=True)
        if failed:
            raise failed[0]

    def _ask(self, prompt: Prompt) -> str:
        body: dict[str, Any] = {
            "model": self._model, "prompt": self._wording.text(prompt), "max_tokens": prompt.new_tokens,
            "temperature": self._decoding.temperature, "seed": self._decoding.seed,
        }  # fmt: skip
        if self._decoding.chat:
            body["add_special_tokens"] = False  # the template wrote them
        try:
            reply = self._session.post(f"{self._url}/completions", json=body, timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
            reply.raise_for_status()
            return str(reply.json()["choices"][0]["text"] or "")
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise EvaluationError(
                f"endpoint {self._url}: no answer to {prompt.key} ({reason}); what came before is kept, the same command goes on"
            ) from None
