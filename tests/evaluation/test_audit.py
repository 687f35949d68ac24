"""The audit: far tokens against a slow count and on texts of known reach, repetition by sets, data sets, the command."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from transformers import LlamaForCausalLM

from entropylong.cli.app import call
from entropylong.corpus.sources.demo import demo_documents
from entropylong.errors import EntropyLongError, EvaluationError
from entropylong.evaluation.audit.dataset import read_sample
from entropylong.evaluation.audit.measure import FAR, distances_within, reach, repeats
from entropylong.models.causal_lm import CausalLM, Ids
from tests import tiny
from tests.conftest import CONF, MakeConfig


@pytest.fixture(scope="module")
def smollm(real_lm: Path) -> CausalLM:
    return CausalLM(real_lm, document_start_id=0)


def test_only_what_repeats_far_back_needs_far_context(smollm: CausalLM) -> None:
    words = sorted({word for _, text in demo_documents("pydoc_data.topics") for word in re.findall(r"[a-z]{4,}", text)})
    chosen = random.Random(0).sample(words, 240)
    first, other = (np.array(smollm.encode(" " + " ".join(part)), np.int32) for part in (chosen[:120], chosen[120:]))
    repeated, fresh = (reach(smollm, np.concatenate([first, second]), [32, 64]) for second in (first, other))
    assert repeated.asked == tuple(2 * len(first) - d - d // 4 for d in (32, 64))
    assert repeated.far[1] > 0.9 * len(first) and repeated.against[1] < 0.1 * len(first)
    # Words at random are never where the model is sure: chance moves them both ways, and only the repetition moves one way.
    assert fresh.far[1] - fresh.against[1] < (repeated.far[1] - repeated.against[1]) / 4
    assert repeated.farthest[1] == repeated.far[1] > 3 * repeated.farthest[0], "the repetition lies further back than 64 tokens"


def slow_nll(lm: Any, prefix: list[int], ids: Ids, start: int, position: int) -> float:
    read = torch.tensor([[*prefix, *ids[start:position].tolist()]])
    with torch.inference_mode():
        return float(-torch.log_softmax(lm(read).logits[0, -1].float(), -1)[int(ids[position])])


def test_reach_is_a_count_of_single_passes(tiny_lm: Path) -> None:
    model, lm = CausalLM(tiny_lm, document_start_id=0), LlamaForCausalLM.from_pretrained(tiny_lm)
    ids = np.random.default_rng(1).integers(2, 300, 40).astype(np.int32)
    distances, largest = [8, 12], {}
    counts = reach(model, ids, distances)
    for n, d in enumerate(distances):
        gains = {}
        for t in range(d + d // 4, len(ids)):
            start = (t - d) // (d // 4) * (d // 4)
            gains[t] = slow_nll(lm, model.prefix, ids, start, t) - slow_nll(lm, model.prefix, ids, 0, t)
        assert all(abs(abs(gain) - FAR) > 1e-4 for gain in gains.values()), "no token on the edge"
        far = [t for t, gain in gains.items() if gain > FAR]
        largest.update(dict.fromkeys(far, n))
        assert (counts.asked[n], counts.far[n]) == (len(gains), len(far)) and far
        assert counts.against[n] == sum(gain < -FAR for gain in gains.values())
    assert list(counts.farthest) == [list(largest.values()).count(n) for n in range(2)]


def test_distances_stay_below_the_length() -> None:
    assert distances_within(640) == [] and distances_within(641) == [512] and distances_within(131072) == [512, 2048, 8192, 32768]


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4))
def test_repetition_is_what_sets_say(documents: list[list[int]]) -> None:
    shares = repeats([np.array(own, np.uint64) for own in documents])
    for n, own in enumerate(documents):
        others = {h for m, other in enumerate(documents) if m != n for h in other}
        within = sum(h in own[:i] for i, h in enumerate(own)) / max(1, len(own))
        assert shares[n] == pytest.approx((within, sum(h in others for h in own) / max(1, len(own))))


def test_data_sets_of_every_form(tmp_path: Path) -> None:
    texts = [f"text {n % 7}" for n in range(20)]
    lines = tiny.write_jsonl(tmp_path / "a.jsonl", [{"text": text, "other": 1} for text in texts])
    all_rows, some, others = (read_sample(lines, n, seed) for n, seed in ((99, 0), (5, 0), (5, 1)))
    assert all_rows.rows == list(enumerate(texts)) and (all_rows.total, all_rows.copies) == (20, 13)
    assert set(some.rows) < set(all_rows.rows) and len(some.rows) == 5 and some.total == 20 and some.rows != others.rows
    ids, masks = [[5, 6, 7, 0, 0], [1, 2, 3, 4, 5], [5, 6, 7, 1, 1]], [b"\1\0\1\0\0", None, b"\1\1\1\0\0"]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"input_ids": ids, "loss_mask": masks, "segments": ["x"] * 3}), tmp_path / "set" / "b.parquet")
    exported = read_sample(tmp_path / "set", 9, 0)
    assert [(n, content.tolist()) for n, content in exported.rows if not isinstance(content, str)] == [
        (0, [5, 6, 7]), (1, [1, 2, 3, 4, 5]), (2, [5, 6, 7]),
    ]  # fmt: skip
    assert exported.copies == 1
    rows: list[dict[str, object]] = [{"input_ids": i, "loss_mask": list(m) if m else None} for i, m in zip(ids, masks, strict=True)]
    same = read_sample(tiny.write_jsonl(tmp_path / "c.jsonl", rows), 9, 0)
    assert same.content == exported.content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "no such file"),
        ("a.jsonl", b'{"text": "x"}\n{"words": 1}', "record 2: has neither text nor input_ids"),
        ("a.jsonl", b'{"input_ids": ["x"]}', "record 1: input_ids is not a list of token ids"),
        ("a.jsonl", b'{"input_ids": [1.5, 2]}', "record 1: input_ids is not a list of token ids"),
        ("a.jsonl", b'{"input_ids": [1, 2], "loss_mask": "AQE="}', "record 1: loss_mask is not one number a token"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "a\\ud800"}', "record 2: character 1 of text is half of a surrogate pair"),
        ("a.jsonl", b"nothing", "record 1 is not JSON"),
        ("a.jsonl", b"", "holds no row"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.txt", b"text", "reads JSON lines or parquet"),
    ],
)
def test_data_sets_that_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EntropyLongError, match=message) as caught:
        read_sample(tmp_path / name, 5, 0)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [[b"ab"], [7], [[2**40]], [[1, None]], [[0.5]], [[[1], [2]]], [[-1]]])
def test_columns_that_hold_no_token_ids(ids: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"input_ids": ids}), tmp_path / "a.parquet")
    with pytest.raises(EvaluationError, match=r"a\.parquet: row 1: input_ids is not a list of token ids"):
        read_sample(tmp_path / "a.parquet", 5, 0)


def test_the_command(tiny_lm: Path, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [str(row["text"]) for row in tiny.documents(4, words=900)]
    texts[2] = texts[0]
    data = tiny.write_jsonl(tmp_path / "books.jsonl", [{"text": text} for text in texts])
    exam = tiny.write_jsonl(tmp_path / "exam.jsonl", [{"question": texts[3][-300:-50]}])  # beyond what the model reads
    make_config(tmp_path / "work", tmp_path)  # which puts an MLflow store there
    keys = [f"workspace={tmp_path / 'work'}", f"model.name={tiny_lm}", f"node_cache={tmp_path / 'cache'}"]
    command = ["audit", str(data), "--config", str(CONF / "demo.yaml"), "--length", "700", f"corpus.exclude=[{exam}]", *keys]
    assert call(command) == 0
    output = capsys.readouterr().out
    assert "context beyond 512" in output and "share 13 words" in output
    (folder,) = (tmp_path / "work" / "audit").iterdir()
    record = json.loads((folder / "audit.json").read_text())
    assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((folder / "scores.json").read_text())["figures"]
    assert record["duplicates"] == {"rows": 4, "copies": 1} and figures["audit.contaminated"] == 0.25
    assert [doc["shared"] and doc["shared"]["name"] for doc in record["documents"]] == [None, None, None, "exam.jsonl"]
    assert record["documents"][0]["across"] == 1.0 > figures["audit.repeated_across"] > 0
    assert all(doc["tokens"] == 700 and doc["reach"]["asked"] == [60] for doc in record["documents"])
    client = MlflowClient(f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("entropylong")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["audit.contaminated"] == 0.25 and run.data.metrics["audit.duplicates"] == 0.25
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"audit.json", "audit.png", "scores.json"}
    capsys.readouterr()
    tiny.write_jsonl(data, [{"text": "too short"}])
    assert call(command) == 1 and "nothing in it is far" in capsys.readouterr().err
