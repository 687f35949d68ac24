"""Answers are kept as they come: a cut-off run goes on, nothing is asked twice, nothing counts twice."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats.contingency import relative_risk
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from entropylong.errors import EvaluationError, UsageError
from entropylong.evaluation import endpoint
from entropylong.evaluation.endpoint import Endpoint
from entropylong.evaluation.generation import Answers, Decoding, HuggingFace, Prompt, Wording, generate
from entropylong.utils.intervals import mean_interval, ratio_interval, wilson
from entropylong.utils.progress import counted_progress

PROMPTS = [Prompt(f"k{n}", "the window is " * (1 + 3 * n), " a", 4 if n < 4 else 6) for n in range(6)]


def here(tiny_lm: Path, **keys: Any) -> HuggingFace:
    return HuggingFace(tiny_lm, "tiny", "hash", Decoding(**keys), batch_tokens=120)


def test_batches_answer_as_one_by_one(tiny_lm: Path, tmp_path: Path) -> None:
    """Padding changes no greedy answer; each is the continuation that transformers gives of the prompt alone."""
    backend = here(tiny_lm)
    batches = list(backend.batches(PROMPTS))
    read = {prompt.key: ids for batch in batches for prompt, ids in batch}
    assert sorted(read) == [f"k{n}" for n in range(6)]
    assert any(len(batch) > 1 for batch in batches) and all(len({p.new_tokens for p, _ in batch}) == 1 for batch in batches)
    answers = generate(PROMPTS, backend, tmp_path / "answers.jsonl")
    model = AutoModelForCausalLM.from_pretrained(tiny_lm).eval()
    for prompt in PROMPTS:
        ids = torch.tensor(read[prompt.key][None], dtype=torch.long)
        continuation = model.generate(ids, max_new_tokens=prompt.new_tokens, do_sample=False)[0, ids.shape[1] :]
        assert answers[prompt.key] == backend.tokenizer.decode(continuation, skip_special_tokens=True)


def test_greedy_is_greedy_whatever_the_model_ships(tiny_lm: Path, tmp_path: Path) -> None:
    plain = generate(PROMPTS, here(tiny_lm), tmp_path / "plain.jsonl")
    own = tmp_path / "lm"
    shutil.copytree(tiny_lm, own)
    GenerationConfig(eos_token_id=0, repetition_penalty=5.0, no_repeat_ngram_size=1).save_pretrained(own)
    assert generate(PROMPTS, here(own), tmp_path / "own.jsonl") == plain


def test_a_run_that_was_cut_short_goes_on(tiny_lm: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    whole = generate(PROMPTS, here(tiny_lm), file)
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    kept_count = text[: len(text) // 2].count("\n")
    counts: list[int] = []
    assert generate(PROMPTS, here(tiny_lm), file, lambda done, total: counts.append(done)) == whole
    assert counts[0] == kept_count and counts[-1] == len(PROMPTS), "only the others were asked"
    keys = [json.loads(line)["key"] for line in file.read_text().splitlines()]
    assert sorted(keys) == sorted(whole) and len(keys) == len(PROMPTS)
    file.write_text('{"key": 1}\n')
    with pytest.raises(EvaluationError, match="holds a line that is no answer"):
        generate(PROMPTS, here(tiny_lm), file)


def test_two_runs_that_ask_the_same_lose_none_of_each_other_s_answers(tiny_lm: Path, tmp_path: Path) -> None:
    file, backend = tmp_path / "answers.jsonl", here(tiny_lm)
    first, second = Answers(file), Answers(file)
    assert len(list(first.ask(PROMPTS[:3], backend))) == 3
    assert set(second.ask(PROMPTS, backend)) == {prompt.key for prompt in PROMPTS[3:]}, "what the other was told is not asked"
    assert Answers(file).by_key.keys() == {prompt.key for prompt in PROMPTS}


def test_drawn_answers_do_not_depend_on_the_batch(tiny_lm: Path, tmp_path: Path) -> None:
    warm = generate(PROMPTS, here(tiny_lm, temperature=0.8), tmp_path / "all.jsonl")
    few = generate(PROMPTS[2:4], here(tiny_lm, temperature=0.8), tmp_path / "few.jsonl")
    assert few == {key: warm[key] for key in few}
    with pytest.raises(UsageError, match="tiny: its tokenizer has no chat template; ask with --no-chat"):
        here(tiny_lm, chat=True)


TEMPLATE = "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content | trim }}\n{% endfor %}assistant:"


def test_what_just_fits_is_refused_where_start_and_template_do_not(tiny_lm: Path) -> None:
    """Before anything is generated: of two prompts only one is too long, and neither is answered."""
    backend = here(tiny_lm)
    ids = backend.tokenizer("the window " * 2000)["input_ids"][: 2048 - 4]
    fits = Prompt("fits", backend.tokenizer.decode(ids), "", 4)
    assert len(backend.tokenizer(fits.text)["input_ids"]) == 2044
    backend.check([fits])
    chat = here(tiny_lm)
    chat.tokenizer.chat_template = TEMPLATE
    chat._wording = Wording(chat.tokenizer, "tiny", True)
    for call in (lambda: chat.check([fits]), lambda: next(chat.answers([PROMPTS[0], fits]))):
        with pytest.raises(EvaluationError, match=r"tiny: reads 2,048 tokens, fits has 2,0\d\d with its answer, its start token"):
            call()


class Server(BaseHTTPRequestHandler):
    """Speaks OpenAI's completions; sometimes busy, sometimes cut off."""

    requests: ClassVar[list[dict[str, Any]]] = []
    faults: ClassVar[list[str]] = []
    slow: ClassVar[float] = 0.0

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "busy":
            self.send_error(503)
            return
        if fault == "dead":
            time.sleep(self.slow / 2)
            self.send_error(400)
            return
        time.sleep(self.slow)
        Server.requests.append({"path": self.path, "key": self.headers["Authorization"], **request})
        body = json.dumps({"choices": [{"text": f"answer to {len(request['prompt'])}"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    Server.requests, Server.faults = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.fixture
def tokenizer(tiny_lm: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_lm)


def test_an_endpoint_that_is_busy_or_cut_off(url: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again while it is busy; where it fails for good, earlier answers stay and the same call goes on."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = tmp_path / "answers.jsonl"
    Server.faults[:] = ["", "busy", "busy", "", "dead"]
    with pytest.raises(EvaluationError, match=r"no answer to k2 \(400 .*; what came before is kept") as caught:
        generate(PROMPTS, Endpoint(url, "m", Decoding(), tokenizer), file)
    assert "secret" not in str(caught.value) and len(file.read_text().splitlines()) == 2
    Server.faults[:] = ["cut"]
    with pytest.raises(EvaluationError, match="no answer to k2"):
        generate(PROMPTS, Endpoint(url, "m", Decoding(), tokenizer, retries=0), file)
    answers = generate(PROMPTS, Endpoint(url, "m", Decoding(), tokenizer), file)
    assert answers == {p.key: f"answer to {len(p.text + p.prefix)}" for p in PROMPTS}
    assert len(file.read_text().splitlines()) == len(PROMPTS), "each counts once"
    last = Server.requests[-1]
    assert (last["path"], last["max_tokens"], last["temperature"], last["key"]) == ("/v1/completions", 6, 0.0, "Bearer secret")


def test_an_endpoint_reads_the_template_and_the_prefix_whole(url: str, tokenizer: Any, tmp_path: Path) -> None:
    """As a model that is run here does: a space at the prefix's end stays."""
    with pytest.raises(UsageError, match="m: its tokenizer has no chat template"):
        Endpoint(url, "m", Decoding(chat=True), tokenizer)
    tokenizer.chat_template = TEMPLATE
    prompt = Prompt("k", " the window ", " they are: ", 4)
    generate([prompt], Endpoint(url, "m", Decoding(chat=True), tokenizer), tmp_path / "chat.jsonl")
    (sent,) = Server.requests
    assert sent["path"] == "/v1/completions" and sent["prompt"] == "<|endoftext|>user: the window\nassistant: they are: "
    assert sent["add_special_tokens"] is False
    assert tokenizer.decode(Wording(tokenizer, "m", True).ids(prompt)) == sent["prompt"], "the template's start token only"


def test_who_answers_is_the_server_and_the_tokenizer(tokenizer: Any) -> None:
    """A name is not enough: another server, or another tokenizer or template, has a folder of its own."""
    one = Endpoint("http://a/v1/", "m", Decoding(), tokenizer).facts
    assert (one["endpoint"], one["model"], one["model_hash"]) == ("http://a/v1", "m", None)
    assert (
        Endpoint("http://a/v1", "m", Decoding(), tokenizer).facts
        == one
        != Endpoint("http://b/v1", "m", Decoding(), tokenizer).facts
    )
    tokenizer.chat_template = TEMPLATE
    assert Endpoint("http://a/v1", "m", Decoding(), tokenizer).facts["tokenizer_hash"] != one["tokenizer_hash"]


def test_one_failure_of_many_costs_one_answer(
    url: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six requests at a time, one of which fails at once: the five that are still open are kept. What is kept is said."""
    monkeypatch.setattr(endpoint, "AT_ONCE", 6)
    monkeypatch.setattr(Server, "slow", 0.3)
    Server.faults[:] = ["dead"]
    file = tmp_path / "answers.jsonl"
    more = [Prompt(f"more{n}", "text", "", 4) for n in range(40)]
    with pytest.raises(EvaluationError, match="no answer to k"):
        generate([*PROMPTS, *more], Endpoint(url, "m", Decoding(), tokenizer), file)
    kept_count = len(file.read_text().splitlines())
    assert 5 <= kept_count < 20, "those that nobody had begun were not asked"
    with counted_progress("asked") as progress:
        generate([*PROMPTS, *more], Endpoint(url, "m", Decoding(), tokenizer), file, progress)
    assert f"asked: {kept_count} of 46 answers were there already" in capsys.readouterr().err


def test_an_endpoint_that_is_not_there(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give http\(s\)://HOST/v1"):
        Endpoint("ftp://host/v1", "m", Decoding(), tokenizer)
    for secret in ("http://name:word@host/v1", "http://host/v1?key=word"):
        with pytest.raises(UsageError) as caught:
            Endpoint(secret, "m", Decoding(), tokenizer)
        assert "word" not in str(caught.value)
    with pytest.raises(EvaluationError, match=r"no answer to k\d \("):
        generate(PROMPTS, Endpoint("http://127.0.0.1:9/v1", "m", Decoding(), tokenizer, retries=0), tmp_path / "answers.jsonl")


def test_intervals() -> None:
    """Wilson by its formula; a bootstrap that holds the mean, and is a point where nothing varies."""
    low, high = wilson(34, 108)
    n, p, z = 108, 34 / 108, 1.959964
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-5)
    low, high = mean_interval([0.0, 1.0] * 50)
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62 and mean_interval([1.0, 1.0]) == (1.0, 1.0)


def test_the_interval_of_a_ratio() -> None:
    """scipy's where counts are large, a limit where nothing is counted, and the truth within as often as it says."""
    interval = relative_risk(3000, 100_000, 4000, 50_000).confidence_interval()
    assert ratio_interval((3000, 100_000), (4000, 50_000)) == pytest.approx((interval.low, interval.high), rel=0.002)
    low, high = ratio_interval((0, 300), (20, 200))
    assert low == 0 and wilson(0, 300)[1] / 0.1 < high < wilson(0, 300)[1] / wilson(20, 200)[0]
    with pytest.raises(ValueError, match="share of 0"):
        ratio_interval((1, 2), (0, 2))
    rng = np.random.default_rng(3)
    for share, n, of, total in ((0.02, 300, 0.1, 200), (0.01, 3000, 0.05, 400), (0.05, 100, 0.1, 500)):
        held = 0
        for _ in range(2000):
            first, second = int(rng.binomial(n, share)), max(1, int(rng.binomial(total, of)))
            low, high = ratio_interval((first, n), (second, total))
            held += low <= share / of <= high
        assert 0.93 <= held / 2000 <= 0.98
