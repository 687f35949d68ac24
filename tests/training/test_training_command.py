"""`entropylong train` on real Spark and real Delta: feeds of three kinds, ranks on this machine and on executors, MLflow, SFT."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from pyspark.sql import SparkSession
from transformers import AutoModelForCausalLM, AutoTokenizer

from entropylong.config import Config
from entropylong.errors import ConfigError, FeedError, ModelError, QuarantineExceededError, SetupError, SourceError
from entropylong.models.cache import WorkerModel
from entropylong.pipeline.runner import Runner
from entropylong.training.data.reader import Feed
from entropylong.training.data.segments import runs
from entropylong.training.data.sources import Feeds, SealedFeed
from entropylong.training.launch import torchrun_line
from entropylong.training.run import Prepared, chat_template, prepare_run, run_training, trained_model
from entropylong.training.steps import read_steps
from entropylong.training.track import TrainingRun
from entropylong.utils.hashing import share_threshold, xxhash64
from tests import tiny
from tests.conftest import CONF, MakeConfig
from tests.corpus.test_decontamination import slow_grams
from tests.reporting.test_cards import check_model_card

ROOT = Path(__file__).parents[2]
VOCABULARY = 512
TRAIN = ("train.steps=4", "train.batch=2", "train.learning_rate=1e-2", "train.dtype=float32", "train.ranks=2", "train.save_every=2")


@pytest.fixture
def config_of(make_config: MakeConfig, corpus: Path, copied: Path) -> Callable[..., Config]:
    return lambda *overrides: make_config(copied, corpus, "run.batch_bytes=1", "run.roots_per_unit=6", *TRAIN, *overrides)


ConfigOf = Callable[..., Config]


def feeds_of(config: Config, spark: SparkSession) -> list[SealedFeed]:
    spec, model = trained_model(config)
    worker = WorkerModel("tokenizer", spec, model.fingerprint, config.node_cache)
    template = chat_template(config, model.path)
    return Feeds(config, spark, worker, VOCABULARY, template).all()


def rows(feed: SealedFeed) -> list[object]:
    count = feed.manifest.rows
    return next(iter(Feed([feed.folder], [1.0], seed=0, batch=count)))


@pytest.mark.e2e
def test_it_trains_and_mlflow_has_the_curve(config_of: ConfigOf, spark: SparkSession, tmp_path: Path, messages: list[str]) -> None:
    """Two ranks by TorchDistributor; the same command again does nothing; MLflow: params, curve, dataset at its version, model."""
    config = config_of()
    done = run_training(config, spark)
    curve = read_steps(done.folder)
    assert [step.step for step in curve] == [1, 2, 3, 4] and curve[-1].loss < curve[0].loss
    AutoModelForCausalLM.from_pretrained(done.result)
    again = run_training(config, spark)
    assert "at its end already" in messages[-1] and again.folder == done.folder
    client = MlflowClient(config.tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("entropylong").experiment_id], "tags.`entropylong.training` != ''")
    assert run.info.status == "FINISHED" and run.data.tags["entropylong.model"] == str(done.result)
    assert run.data.params["train.steps"] == "4" and run.data.params["train.ranks"] in ("2", "2.0")
    for name in (
        "loss",
        "rate",
        "gradient_norm",
        "tokens_per_second",
        "tokens_per_second_per_rank",
        "mfu",
        "memory_gib",
        "data_wait_share",
    ):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(s.step, getattr(s, name)) for s in curve], name
    tracked = TrainingRun(config, done.folder, done.feeds, {})
    tracked._client = MlflowClient("sqlite:////nowhere/mlflow.db")
    tracked.finish("FAILED", error="its own")
    assert any(line.startswith("MLflow: ") for line in messages), "a store that fails is told, and hides nothing"
    (data,) = run.inputs.dataset_inputs
    source = json.loads(data.dataset.source)
    assert source["path"].endswith("sequences") and source["delta_table_version"] == done.feeds[0].manifest.version
    assert data.dataset.digest == done.feeds[0].manifest.fingerprint
    check_model_card(config, done, tmp_path)


@pytest.mark.e2e
def test_executors_and_torchrun_give_the_same_run(config_of: ConfigOf, spark: SparkSession) -> None:
    """One code path: a barrier task each, or torchrun without Spark on what --prepare left."""
    done = run_training(config_of("train.launch=cluster", "train.sequence_parallel=2"), spark)
    curve = [step.loss for step in read_steps(done.folder)]
    assert len(curve) == 4
    workspace = done.folder.parents[1]
    elsewhere = (f"workspace={workspace.with_name('other')}", f"tables={workspace / 'tables'}", "train.sequence_parallel=2")
    other = prepare_run(config_of(*elsewhere), spark)
    line = torchrun_line(other.file, other.ranks).split()
    command = [sys.executable, "-m", "torch.distributed.run", *line[1:]]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert other.folder.name == done.folder.name and [step.loss for step in read_steps(other.folder)] == curve


def test_what_cannot_work_is_told_before_any_rank_starts(
    config_of: ConfigOf, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entropylong.training.run.launch", lambda *args: pytest.fail("a rank was started"))
    refused: list[tuple[type[Exception], str, tuple[str, ...]]] = [
        (ConfigError, r"3 ranks, 1 to a sequence, do not divide a batch of 2", ("train.ranks=3",)),
        (ConfigError, "take one of", ("train.sequence_parallel=3", "train.ranks=3")),
        (ConfigError, "state how many ranks train.launch cluster has", ("train.ranks=null", "train.launch=cluster")),
        (FeedError, "no sequences yet; make them with: entropylong run", ("accept.epsilon=0.9",)),
        (FeedError, "no sequences yet", ("train.data.a.kind=sequences", "train.data.a.fingerprint=unknown")),
        (FeedError, "documents are not read to their end", ("train.data.d.kind=documents", "ingest.max_chars=999")),
        (ConfigError, "needs conversations", ("train.mode=sft",)),
        (
            SourceError,
            "train.data c: no such file or directory",
            ("train.mode=sft", "train.data.c.kind=chat", f"train.data.c.path={tmp_path}/none"),
        ),
        (ConfigError, "the model reads 2,048 tokens, pack.length is 4,096", ("pack.length=4096", "train.data.d.kind=documents")),
        (ModelError, "no such folder", (f"train.model={tmp_path}/nothing",)),
        (ModelError, "another tokenizer than model.name", (f"train.model={tiny.make_causal_lm(tmp_path / 'lm', vocabulary=300)}",)),
    ]
    for error, message, overrides in refused:
        with pytest.raises(error, match=message):
            run_training(config_of(*overrides), spark)
    monkeypatch.undo()
    with pytest.raises(SetupError, match="4 ranks run at once, the executors have room for 2 tasks"):
        run_training(config_of("train.ranks=4", "train.batch=4", "train.launch=cluster"), spark)


@pytest.mark.e2e
def test_documents_and_sequences_are_mixed(config_of: ConfigOf, spark: SparkSession) -> None:
    """Three rows of sequences to one of documents, each document whole, once, and with its start token."""
    config = config_of(
        "train.data.long.kind=sequences", "train.data.long.weight=3", "train.data.short.kind=documents", "train.data.short.weight=1"
    )
    long, short = feeds_of(config, spark)
    assert (long.kind, short.kind) == ("sequences", "documents") and (long.weight, short.weight) == (3.0, 1.0)
    tokenizer = AutoTokenizer.from_pretrained(config.model.name)
    runner = Runner.open(config, spark)
    texts = {row.text for row in runner.state.ok_rows("documents").collect()}
    decoded_texts = []
    for row in rows(short):
        assert len(row.input_ids) == 1024
        for start, end in runs(row.segment):
            assert row.input_ids[start] == 0 and not row.loss_mask[start] and row.loss_mask[start + 1 : end].all()
            decoded_texts.append(tokenizer.decode(row.input_ids[start + 1 : end]))
        padding = row.segment == -1
        assert (row.input_ids[padding] == 1).all() and not row.loss_mask[padding].any()
    assert sorted(decoded_texts) == sorted(texts)
    for row in rows(long):
        assert len(runs(row.segment)) == 1, "attention goes across the pieces"
    few = feeds_of(config_of("train.data.short.kind=documents", "train.data.short.share=0.4"), spark)[0]
    assert 0 < sum(len(runs(row.segment)) for row in rows(few)) < len(texts)
    done = run_training(config.model_copy(update={"train": config.train.model_copy(update={"steps": 1})}), spark)
    assert done.settings.segmented and sorted(done.settings.weights) == [1.0, 3.0] and len(read_steps(done.folder)) == 1


def test_what_is_held_out_or_excluded_is_not_trained_on(config_of: ConfigOf, spark: SparkSession, tmp_path: Path) -> None:
    config = config_of("train.data.short.kind=documents", "pack.held_out=0.3", "quarantine.max_rate=0.9")
    runner = Runner.open(config, spark)
    documents = runner.state.ok_rows("documents").collect()
    unseen = {row.text for row in documents if xxhash64(config.seed, "held_out", row.doc_id) > share_threshold(0.7)}
    question = " ".join(min(row.text for row in documents if row.text not in unseen).split()[:15])
    exams = tiny.write_jsonl(tmp_path / "exams.jsonl", [{"question": question}])
    matches = {row.text for row in documents if set(slow_grams(row.text)) & set(slow_grams(question))}
    tokenizer = AutoTokenizer.from_pretrained(config.model.name)
    left_out = config.model_copy(update={"corpus": config.corpus.model_copy(update={"exclude": [str(exams)]})})
    for own, missing in ((config, unseen), (left_out, unseen | matches)):
        (feed,) = feeds_of(own, spark)
        read = {tokenizer.decode(row.input_ids[start + 1 : end]) for row in rows(feed) for start, end in runs(row.segment)}
        assert read == {row.text for row in documents} - missing and missing
    (report,) = feed.folder.parent.glob(f"{feed.folder.name}.*.jsonl")
    assert {json.loads(line)["code"] for line in report.read_text().splitlines()} == {"CONTAMINATED"}


def test_weights_stand_at_the_verified_anchors(config_of: ConfigOf, spark: SparkSession) -> None:
    """Each dependency's anchor has the drop that was measured for it; other tokens have none."""
    config = config_of("train.anchor_weight=5")
    (feed,) = feeds_of(config, spark)
    runner = Runner.open(config, spark)
    packed = {r.sequence_id: r for r in runner.state.ok_rows("sequences").collect()}
    drops = {(c.root_id, c.chunk_id, c.position): c.nll - c.nll_with for c in runner.state.readings().collect()}
    count = 0
    for row in rows(feed):
        expected = np.zeros(1024, np.float32)
        starts = {s.root_id: s.start for s in packed[row.sequence_id].segments if s.kind == "root"}
        for d in packed[row.sequence_id].dependencies:
            drop = np.float32(drops[d.root_id, d.chunk_id, d.anchor - starts[d.root_id]])
            expected[d.anchor] = max(expected[d.anchor], drop) if expected[d.anchor] else drop
            count += 1
        np.testing.assert_allclose(row.nll_drop, expected, rtol=1e-5)
    assert count > 1
    plain = feeds_of(config_of(), spark)[0]
    assert plain.folder != feed.folder and not any(row.nll_drop.any() for row in rows(plain))


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def conversations(path: Path, count: int = 12) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"What is window {n}?"}, {"role": "assistant", "content": f"A function {n}."},
                      {"role": "user", "content": "And its length?"}, {"role": "assistant", "content": "given " * (1 + n)}]}
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.e2e
def test_sft_attends_within_each_conversation(config_of: ConfigOf, spark: SparkSession, tmp_path: Path) -> None:
    """Packed whole and once; targets are all tokens, or what the assistant said; the template goes with the result."""
    path = conversations(tmp_path / "chat.jsonl")
    keys = ["train.mode=sft", "train.data.chat.kind=chat", f"train.data.chat.path={path}", f'train.chat_template="{TEMPLATE}"']
    config = config_of(*keys, "train.steps=2")
    done = run_training(config, spark)
    tokenizer = AutoTokenizer.from_pretrained(done.result)
    messages = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    expected = sorted(tokenizer.apply_chat_template(m, tokenize=False) for m in messages)
    assert "<assistant>A function 3." in "".join(expected), "the template was exported"
    (whole,) = rows(done.feeds[0])
    assert sorted(tokenizer.decode(whole.input_ids[a:b]) for a, b in runs(whole.segment)) == expected
    starts = [start for start, _ in runs(whole.segment)]
    assert not whole.loss_mask[starts].any() and whole.loss_mask.sum() == (whole.segment != -1).sum() - len(starts)
    (own,) = rows(feeds_of(config_of(*keys, "train.loss_on=assistant"), spark)[0])
    assert (own.input_ids == whole.input_ids).all()
    for a, b in runs(own.segment):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], own.loss_mask[a:b], [0]])))
        answers = [tokenizer.decode(own.input_ids[a + x : a + y]) for x, y in edges.reshape(-1, 2)]
        (messages_of,) = [
            m for m in messages if tokenizer.apply_chat_template(m, tokenize=False) == tokenizer.decode(own.input_ids[a:b])
        ]
        assert answers == [m["content"] + "\n" for m in messages_of if m["role"] == "assistant"]


def test_broken_conversations_are_listed_or_stop_the_run(
    config_of: ConfigOf, spark: SparkSession, tmp_path: Path, messages: list[str]
) -> None:
    path = conversations(tmp_path / "chat.jsonl", 40)
    path = path.rename(path.with_suffix(".json"))
    long = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "window " * 3000}]}
    path.write_text(path.read_text() + "{broken\n\n" + json.dumps(long) + "\n")
    keys = ["train.mode=sft", "train.data.chat.kind=chat", f"train.data.chat.path={path}", f'train.chat_template="{TEMPLATE}"']
    (feed,) = feeds_of(config_of(*keys), spark)
    assert "of 42 records 1 CUT, 1 NOT_JSON" in messages[0] and any(runs(row.segment) == [(0, 1024)] for row in rows(feed))
    listed = [json.loads(line) for line in Path(messages[0].rpartition(" in ")[2]).read_text().splitlines()]
    assert sorted(row["code"] for row in listed) == ["CUT", "NOT_JSON"] and "{broken" in str(listed)
    packed = path.with_name("packed.jsonl.gz")
    packed.write_bytes(gzip.compress(path.read_bytes() + b'{"messages": "\xff"}\n'))
    (same,) = feeds_of(config_of(*keys[:2], f"train.data.chat.path={packed}", keys[3]), spark)
    assert "of 43 records 1 CUT, 1 INVALID_UTF8, 1 NOT_JSON" in messages[-2]
    assert same.manifest.identity == feed.manifest.identity, "the same rows, whatever file they came from"
    bad = [
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": 3}]}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        "[1]",
    ]
    path.write_text(path.read_text() + "\n".join(bad) + "\n")
    with pytest.raises(QuarantineExceededError, match=r"5 of 46 records are refused \(1 CUT, 1 NOT_JSON, 4 NO_MESSAGES\)"):
        feeds_of(config_of(*keys), spark)
    with pytest.raises(QuarantineExceededError, match="NOT_RENDERED"):
        feeds_of(config_of(*keys[:3], "train.chat_template=\"{{ raise_exception('no') }}\""), spark)


@pytest.mark.e2e
def test_a_driver_that_is_asked_to_stop_or_killed(config_of: ConfigOf, spark: SparkSession, tmp_path: Path) -> None:
    """SIGTERM to the driver: its ranks save and leave. Kill -9 of the command: they end with it. Each time the run goes on."""
    config = config_of("train.steps=60", "train.ranks=1", "train.save_every=10")
    folder = prepare_run(config, spark).folder

    def after_steps(more: int, act: Callable[[], None]) -> threading.Thread:
        def watch() -> None:
            before, deadline = len(read_steps(folder)), time.monotonic() + 120
            while len(read_steps(folder)) < before + more and time.monotonic() < deadline:
                time.sleep(0.02)
            act()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread

    stopper = after_steps(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = run_training(config, spark)
    stopper.join()
    done = len(read_steps(folder))
    assert 2 <= done < 60 and not stopped.result.is_dir()
    client = MlflowClient(config.tracking.uri)
    run = json.loads((folder / "mlflow.json").read_text())["run_id"]
    assert client.get_run(run).info.status == "KILLED"

    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"extends": "base", **json.loads(config.model_dump_json())}))
    command = [sys.executable, "-m", "entropylong.cli", "train", "--config", str(file)]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    after_steps(2, started.kill).join()
    output = started.communicate(timeout=120)[0]
    assert started.returncode == -9 and f"goes on after step {done}" in output, output
    assert done < len(read_steps(folder)) < 60
    finished = run_training(config, spark)
    assert [step.step for step in read_steps(folder)] == list(range(1, 61)) and finished.result.is_dir()
    history = client.get_metric_history(run, "loss")
    assert [m.step for m in history] == list(range(1, 61)) and client.get_run(run).info.status == "FINISHED"


@pytest.mark.e2e
def test_smollm2_learns_real_text(spark: SparkSession, tmp_path: Path) -> None:
    """The real model, seven steps on docstrings packed at 512 tokens: the loss falls."""
    from entropylong.config import load_config

    keys = [f"workspace={tmp_path / 'work'}", "train.data.text.kind=documents", "train.data.text.share=0.008", "train.batch=1",
            "train.ranks=1", "train.steps=7", "train.learning_rate=2e-4", "train.checkpoint_activations=false",
            "pack.length=512", "roots.max_tokens=256", "contexts.max_tokens=128"]  # fmt: skip
    config = load_config(CONF / "demo_train.yaml", keys)
    Runner.open(config, spark).run(["ingest"])
    done: Prepared = run_training(config, spark)
    curve = [step.loss for step in read_steps(done.folder)]
    assert len(curve) == 7 and done.feeds[0].manifest.rows < 6
    assert np.mean(curve[-3:]) < np.mean(curve[:3]) - 0.2 and curve[0] < 4, curve
    assert list(islice(done.result.glob("*.safetensors"), 1))
