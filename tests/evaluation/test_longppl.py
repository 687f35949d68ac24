"""LongPPL and its key tokens, against a slow count with transformers: one token, one forward pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from entropylong.errors import EvaluationError, SourceError
from entropylong.evaluation.longppl import PAPER, Rule, evaluate_longppl, key_tokens, load_keys, long_ppl, read_documents, save_keys
from entropylong.models.cache import WorkerModel
from entropylong.models.causal_lm import CausalLM, Ids
from entropylong.models.prepare import ModelSpec, prepare

WINDOW, STRIDE = 16, 4


def sharpened(source: Path, target: Path, factor: float = 8.0) -> Path:
    """A copy whose attention is far from uniform and moves its logits: what random weights alone do not give."""
    shutil.copytree(source, target)
    model = LlamaForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for layer in model.model.layers:
            attention = layer.self_attn
            for part, by in ((attention.q_proj, factor), (attention.k_proj, factor), (attention.o_proj, factor / 2)):
                part.weight.mul_(by)
    model.save_pretrained(target)
    return target


def without_start(source: Path, target: Path) -> Path:
    """A copy whose tokenizer has no start token."""
    shutil.copytree(source, target)
    for file in target.glob("*token*.json"):
        settings = json.loads(file.read_text())
        settings.pop("bos_token", None)
        file.write_text(json.dumps(settings))
    return target


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of passes of microseconds each: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def evaluator_folder(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharpened(tiny_lm, tmp_path_factory.mktemp("sharp") / "lm")


@pytest.fixture(scope="module")
def documents(evaluator_folder: Path) -> list[Ids]:
    """Written by the evaluator itself, so that it finds them likely as long as it sees all of them."""
    model = LlamaForCausalLM.from_pretrained(evaluator_folder).eval()
    torch.manual_seed(0)
    start = torch.zeros((1, 1), dtype=torch.long)
    lengths = (90, WINDOW + STRIDE, 63)
    written = [model.generate(start, do_sample=True, min_new_tokens=n, max_new_tokens=n, pad_token_id=1) for n in lengths]
    return [ids[0, 1:].numpy().astype(np.int32) for ids in written]


@torch.inference_mode()
def nll(model: LlamaForCausalLM, before: Sequence[int], token: int) -> float:
    return -float(model(torch.tensor([list(before)])).logits[0, -1].double().log_softmax(-1)[token])


def slow_keys(model: LlamaForCausalLM, front: list[int], ids: list[int], gain: float, most: float) -> tuple[list[int], float]:
    """Key tokens, and how close any token is to a threshold."""
    keys, close = [], float("inf")
    for t in range(WINDOW, len(ids)):
        start = 0
        while t - (start + STRIDE) >= WINDOW:
            start += STRIDE
        assert WINDOW <= t - start < WINDOW + STRIDE
        long, short = nll(model, front + ids[:t], ids[t]), nll(model, front + ids[start:t], ids[t])
        close = min(close, abs(short - long - gain), abs(long - most))
        if short - long > gain and long < most:
            keys.append(t)
    return keys, close


@pytest.mark.parametrize(("gain", "most", "starts"), [(2.0, 2.0, True), (0.5, 1.0, True), (2.0, 2.0, False)])
def test_key_tokens_are_those_of_a_slow_count(
    evaluator_folder: Path, documents: list[Ids], tmp_path: Path, gain: float, most: float, starts: bool
) -> None:
    folder = evaluator_folder if starts else without_start(evaluator_folder, tmp_path / "lm")
    evaluator, plain = CausalLM(folder), LlamaForCausalLM.from_pretrained(folder).eval()
    assert evaluator.prefix == ([0] if starts else [])
    ids = documents[0]
    expected, close = slow_keys(plain, evaluator.prefix, ids.tolist(), gain, most)
    assert len(expected) >= 10 and close > 1e-3, "there are key tokens, and none of them by rounding"
    for batch_tokens in (8192, 50):
        keys = key_tokens(evaluator, ids, window=WINDOW, stride=STRIDE, gain=gain, most=most, batch_tokens=batch_tokens)
        assert keys.dtype == np.int32 and keys.tolist() == expected


def test_a_document_without_far_context_has_no_key_token(evaluator_folder: Path, documents: list[Ids]) -> None:
    evaluator = CausalLM(evaluator_folder)
    for length in (0, 1, WINDOW, WINDOW + 1, WINDOW + STRIDE):
        assert not len(key_tokens(evaluator, documents[0][:length], window=WINDOW, stride=STRIDE))
    # The last window may hold one token, or all of its stride.
    plain = LlamaForCausalLM.from_pretrained(evaluator_folder).eval()
    for length in (WINDOW + STRIDE + 1, WINDOW + 2 * STRIDE, WINDOW + 2 * STRIDE + 1):
        ids = documents[0][:length]
        expected, close = slow_keys(plain, evaluator.prefix, ids.tolist(), 0.01, 99)
        assert expected and close > 1e-3
        assert key_tokens(evaluator, ids, window=WINDOW, stride=STRIDE, gain=0.01, most=99).tolist() == expected
    assert not len(key_tokens(evaluator, documents[0])), "the paper's window is 4,096"


@pytest.mark.parametrize("starts", [True, False])
def test_long_ppl_is_that_of_a_slow_count(tiny_lm: Path, documents: list[Ids], tmp_path: Path, starts: bool) -> None:
    folder = tiny_lm if starts else without_start(tiny_lm, tmp_path / "lm")
    model, plain = CausalLM(folder), LlamaForCausalLM.from_pretrained(folder).eval()
    front, first = ([0], 0) if starts else ([], 1)
    keys_list = [np.array(keys, np.int32) for keys in ([20, 44, 89], [], [1, 62])]
    every, key = [], []
    for ids, keys in zip(documents, keys_list, strict=True):
        for t in range(first, len(ids)):
            every.append(nll(plain, front + ids[:t].tolist(), int(ids[t])))
            key += every[-1:] if t in keys else []
    score = long_ppl(model, documents, keys_list, batch_tokens=100)
    assert (score.key_count, score.token_count) == (5, sum(map(len, documents)) - first * len(documents))
    assert score.long_ppl == pytest.approx(np.exp(np.mean(key)), rel=1e-4)
    assert score.ppl == pytest.approx(np.exp(np.mean(every)), rel=1e-4)


def test_what_cannot_be_judged_is_said(tiny_lm: Path, documents: list[Ids], tmp_path: Path) -> None:
    none = np.zeros(0, np.int32)
    with pytest.raises(EvaluationError, match="none of 3 documents has a key token"):
        long_ppl(CausalLM(tiny_lm), documents, [none] * 3, 8192)
    with pytest.raises(EvaluationError, match="document 1 has key tokens outside of its 20 tokens"):
        long_ppl(CausalLM(tiny_lm), documents, [none, np.array([3, 20], np.int32), none], 8192)
    broken = LlamaForCausalLM.from_pretrained(tiny_lm)
    with torch.no_grad():
        broken.model.embed_tokens.weight[int(documents[0][40])] = float("nan")
    broken.save_pretrained(shutil.copytree(tiny_lm, tmp_path / "broken"))
    for ask in (
        lambda model: long_ppl(model, documents[:1], [np.array([20], np.int32)], 8192),
        lambda model: key_tokens(model, documents[0], window=WINDOW, stride=STRIDE),
    ):
        with pytest.raises(EvaluationError, match="gives no number for some token"):
            ask(CausalLM(tmp_path / "broken"))


def test_keys_are_kept_for_one_evaluator_rule_and_set_of_documents(documents: list[Ids], tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    keys_list = [np.array(keys, np.int32) for keys in ([20, 44, 89], [], [1, 62])]
    save_keys(path, "e1", list(zip(documents, keys_list, strict=True)))
    assert json.loads(path.read_text())["rule"] == PAPER
    back = load_keys(path, "e1", documents)
    assert [keys.tolist() for keys in back] == [keys.tolist() for keys in keys_list] and {k.dtype for k in back} == {np.dtype("i4")}
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]

    def refused(match: str, *args: object, **rule: float) -> None:
        with pytest.raises(EvaluationError, match=match) as caught:
            load_keys(*args, **rule)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    refused("key tokens of evaluator e1, this one is e2", path, "e2", documents)
    refused(r"of 3 other documents \(2 of these 2\)", path, "e1", documents[:2])
    changed = [documents[0], documents[1], documents[2].copy()]
    changed[2][0] += 1
    refused(r"of 3 other documents \(2 of these 3\)", path, "e1", changed)
    refused("'gain': 2.0.* asked for .*'gain': 1.0", path, "e1", documents, gain=1.0)
    refused("no key tokens there", tmp_path / "none.json", "e1", documents)
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "[]", '{"evaluator": "e1"}', whole.replace("[20, 44", '[20, "x"')):
        path.write_text(damaged)
        refused("holds no key tokens", path, "e1", documents)
    save_keys(path, "e1", list(zip(documents, keys_list, strict=True)), window=WINDOW, stride=STRIDE)
    assert len(load_keys(path, "e1", documents, stride=STRIDE, window=WINDOW)) == 3
    refused("key tokens by", path, "e1", documents)


def named(folder: Path, cache: Path, dtype: str = "float32") -> WorkerModel:
    spec = ModelSpec(str(folder))
    return WorkerModel("causal_lm", spec, prepare(spec, cache).fingerprint, str(cache), dtype, 0)


def test_checkpoints_are_judged_on_the_evaluators_tokens(tiny_lm: Path, evaluator_folder: Path, tmp_path: Path) -> None:
    """Keys are found once and kept; another model is judged on the same; other texts need other keys."""
    texts = ["window function " * 30, "The spectral estimate of a window. " * 8]
    rule: Rule = {"window": WINDOW, "stride": STRIDE, "gain": 0.01, "most": 50.0}
    judge, other = named(evaluator_folder, tmp_path), named(tiny_lm, tmp_path)
    keys = tmp_path / "keys.json"
    result, score = evaluate_longppl(judge, judge, texts, 60, keys, tmp_path, 8192, **rule)
    record, before = json.loads((result.folder / "scores.json").read_text()), keys.read_text()
    assert record["figures"]["longppl.long_ppl"] == score.long_ppl and score.key_count > 0
    values, weights = np.array(list(json.loads((result.folder / "items.json").read_text()).values())).T
    assert np.exp(np.average(values, weights=weights)) == pytest.approx(score.long_ppl) and weights.sum() == score.key_count
    assert record["facts"]["benchmark"] == "longppl" and record["facts"]["model_hash"] == judge.fingerprint
    again, second = evaluate_longppl(other, judge, texts, 60, keys, tmp_path, 8192, **rule)
    assert keys.read_text() == before and second.key_count == score.key_count and second.long_ppl != score.long_ppl
    assert again.folder != result.folder and again.facts["evaluator_hash"] == judge.fingerprint
    with pytest.raises(EvaluationError, match="other documents"):
        evaluate_longppl(other, judge, texts[:1], 60, keys, tmp_path, 8192, **rule)
    with pytest.raises(EvaluationError, match=f"of evaluator {judge.fingerprint}-float32, this one is .*-bfloat16"):
        evaluate_longppl(other, named(evaluator_folder, tmp_path, "bfloat16"), texts, 60, keys, tmp_path, 8192, **rule)


def test_keys_have_a_file_for_all_that_they_depend_on(evaluator_folder: Path, tmp_path: Path) -> None:
    """Without one that is named, a second set of documents, length or dtype is not refused; the first is used again."""
    texts = ["window function " * 30, "The spectral estimate of a window. " * 8]
    rule: Rule = {"window": WINDOW, "stride": STRIDE, "gain": 0.01, "most": 50.0}
    judge = named(evaluator_folder, tmp_path)
    for by, of, length, files in ((judge, texts, 60, 1), (judge, texts[:1], 60, 2), (judge, texts, 50, 3), (judge, texts, 60, 3),
                                  (named(evaluator_folder, tmp_path, "bfloat16"), texts, 60, 4)):  # fmt: skip
        evaluate_longppl(by, by, of, length, None, tmp_path, 8192, **rule)
        assert len(list(tmp_path.glob("keys-*.json"))) == files


def test_documents_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    for text, message in (("{}\n", r"texts.jsonl@3:1: no key 'text'"), ('{"text": "a"}\n\n[1]\n', ":2: the line is a JSON list"),
                          ("\n", "holds no document"), ('{"text": null}', ":1: the text is null")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(EvaluationError, match=message):
            read_documents(file)
    with pytest.raises(SourceError, match="no such file"):
        read_documents(tmp_path / "none")
    # A line end to Python's strings, none to JSON.
    file.write_text('{"text": "a\u2028c"}\n{"text": " b "}\n{"text": " "}\n', encoding="utf-8")
    assert read_documents(file) == ["a\u2028c", "b"]
