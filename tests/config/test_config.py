"""The configuration: every key documented, declared and used; mistakes told with file, key and the nearest valid key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from entropylong.config import Config, load_config
from entropylong.config.loader import RETIRED, conf_dir
from entropylong.config.schema import NAMED, generic, keys_of, operational_keys, walk
from entropylong.errors import ConfigError
from entropylong.pipeline.steps import STEPS
from entropylong.training.run import IDENTITY
from tests.conftest import CONF

# Covered by the hash of the prepared files, which stands in the fingerprint in their place.
BY_MODEL_HASH = {"model.name", "model.revision", "model.dtype", "encoder.name", "encoder.revision"}


def _is_named(key: str) -> bool:
    """Below a name of the user's own: base.yaml describes it in a comment."""
    return any(key.startswith(f"{section}.*") for section in NAMED)


def test_base_documents_every_key_and_no_other() -> None:
    tree = yaml.safe_load((CONF / "base.yaml").read_text())
    keys = {generic(key) for key, _ in walk(tree)}
    assert keys - set(NAMED) == {key for key in keys_of(Config) if not _is_named(key)}
    lines = (CONF / "base.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^\s+\w+:\s*\S", line) or re.match(r"^\w+:\s+\S", line):
            assert lines[number - 1].lstrip().startswith("#"), f"no comment above: {line}"


def test_operational_keys_are_marked_in_base() -> None:
    text = (CONF / "base.yaml").read_text()
    section, marked, comment = "", set(), ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment += line
            continue
        if match := re.match(r"^(\s*)(\w+):", line):
            if not match.group(1):
                section = match.group(2)
            key = f"{section}.{match.group(2)}" if match.group(1) else section
            if "[operational]" in comment:
                marked.add(key)
        comment = ""
    assert marked == {k for k in operational_keys() if not _is_named(k)}


def test_every_semantic_key_belongs_to_a_stage() -> None:
    claimed = {path for step in STEPS for path in (*step.config, *step.selects)} | BY_MODEL_HASH | {IDENTITY}
    for key in set(keys_of(Config)) - set(operational_keys()):
        assert any(key == c or key.startswith(f"{c}.") for c in claimed), f"{key} is hashed nowhere"


def test_every_stage_path_is_a_key() -> None:
    keys = set(keys_of(Config))
    for step in STEPS:
        for path in (*step.config, *step.selects):
            assert any(k == path or k.startswith(f"{path}.") for k in keys), (step.name, path)


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "cluster",
        "demo",
        "demo_train",
        "experiment_links",
        "experiment_training",
        "experiment_training_cpu",
        "paper",
        "sft_128k",
        "train_128k",
    ],
)
def test_shipped_files_load(name: str) -> None:
    assert isinstance(load_config(conf_dir() / f"{name}.yaml"), Config)


def test_paper_preset_is_the_papers_setting() -> None:
    config = load_config(CONF / "paper.yaml")
    assert (config.anchors.alpha, config.accept.epsilon, config.query.window, config.retrieval.top_k) == (2.0, 0.4, 16, 32)
    assert (config.accept.rule, config.accept.max_copy_tokens, config.verify.scope) == ("paper", None, "retrieved")
    assert (config.pack.layout, config.pack.order, config.pack.filler, config.pack.max_chunk_uses) == (
        "grouped",
        "shuffle",
        "none",
        None,
    )
    assert (config.anchors.min_position, config.separator, config.pack.length) == (1, "", 131072)


def test_the_published_training_recipe() -> None:
    run, sft = load_config("train_128k"), load_config("sft_128k")
    assert (run.train.steps, run.train.batch, run.pack.length, run.train.sequence_parallel) == (1000, 32, 131072, 2)
    assert (run.train.learning_rate, run.train.final_rate, run.train.warmup, run.train.rope_base) == (4e-5, 0, 0.2, 2e8)
    assert (run.train.weight_decay, run.train.clip, run.train.dtype, run.train.mode) == (0.1, 1.0, "bfloat16", "pretrain")
    assert (sft.train.steps, sft.train.batch, sft.pack.length, sft.train.sequence_parallel) == (250, 16, 131072, 8)
    assert (sft.train.learning_rate, sft.train.final_rate, sft.train.warmup, sft.train.rope_base) == (2e-5, 0.1, 0.05, None)
    assert (sft.train.mode, sft.train.loss_on) == ("sft", "all")
    assert run.model.name == sft.model.name == "meta-llama/Meta-Llama-3-8B"


def test_operational_keys_change_no_fingerprint_section() -> None:
    one = load_config(CONF / "demo.yaml")
    other = load_config(
        CONF / "demo.yaml", ["workspace=elsewhere", "run.batch_tokens=7", "ingest.unit_bytes=5", "spark.conf.a.b=1"]
    )
    for step in STEPS:
        assert one.semantic(*step.config) == other.semantic(*step.config)
    assert other.spark.conf == {"a.b": "1"} and other.tables == "elsewhere/tables"


BASE = "extends: base\n"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (BASE + "anchor:\n  alpha: 2\n", [], "unknown key 'anchor.alpha'; the nearest valid key is 'anchors.alpha'"),
        (BASE + "anchors:\n  alpha: high\n", [], "key 'anchors.alpha': Input should be a valid number, got 'high'"),
        (BASE + "anchors: 3\n", [], "key 'anchors' must be a mapping"),
        (BASE + "anchors:\n", [], "key 'anchors' is empty"),
        (BASE + "pack:\n  layout: heap\n", [], "key 'pack.layout'"),
        (BASE + "pack:\n  length: 3000\n", [], "cannot hold one root and one context"),
        (BASE + "roots:\n  min_tokens: 5000\n", [], "above roots.max_tokens"),
        (BASE + "roots:\n  long: split\n  min_tokens: 300\n  max_tokens: 400\n", [], "above half of roots.max_tokens"),
        (BASE + "chunks:\n  max_chars: 10\n", [], "below chunks.target_chars"),
        (BASE + "sources:\n  a:\n    kind: csv\n    path: x\n", [], "key 'sources.a.kind'"),
        (BASE + "sources:\n  a:\n    kind: jsonl\n", [], "needs either path or table"),
        (BASE + "sources:\n  a-b:\n    kind: jsonl\n    path: x\n", [], "lower-case letters"),
        (BASE + "sources:\n  a:\n    kind: jsonl\n    table: x\n", [], "only kind delta reads a table"),
        (BASE, ["workspace=hdfs:///entropylong"], "is not a folder; give one that every node mounts"),
        ("extends: nothing\n", [], "there is no nothing.yaml"),
        ("- a\n", [], "must be a mapping"),
        ("a: [\n", [], "not readable as YAML"),
        (BASE + "train:\n  data:\n    A:\n      kind: sequences\n", [], "lower-case letters"),
        (BASE + "train:\n  data:\n    a: 3\n", [], "key 'train.data.a' must be a mapping"),
        (BASE + "train:\n  data:\n    a:\n      kinds: chat\n", [], "the nearest valid key is 'train.data.*.kind'"),
        (BASE, ["train.data.a.kind=chat", "train.data.a.path=x"], "train.mode pretrain does not train on kind chat"),
        (BASE, ["train.mode=sft", "train.data.a.kind=chat"], "kind chat needs a JSON lines file"),
        (BASE, ["train.data.a.kind=documents", "train.data.a.path=x"], "only kind chat has one"),
        (BASE, ["train.data.a.kind=documents", "train.data.a.recipe=noverify"], "belong to kind sequences"),
        (BASE, ["train.data.a.kind=sequences", "train.data.a.share=0.5"], "belongs to kind documents"),
        (BASE, ["train.data.a.kind=sequences", "train.data.a.recipe=noverify", "train.data.a.fingerprint=f"], "one of the two"),
        (BASE, ["train.data.a.kind=sequences", "train.data.a.tables=d"], "needs the fingerprint"),
        (BASE, ["train.data.a.kind=sequences", "train.data.a.weight=0"], "greater than 0"),
        (BASE, ["train.offload_activations=true", "train.checkpoint_activations=false"], "it would move the weights"),
        (BASE, ["accept.epsilon=.nan"], "key 'accept.epsilon'"),
        (BASE, ["alpha"], "must be key.sub=value"),
        (
            BASE + "verify:\n  order: rank\n",
            [],
            "key 'verify.order' is retired: a budget visits candidates by rank; remove the key",
        ),
        (BASE, ["verify.order=learned"], "key 'verify.order' is retired: a budget visits candidates by rank; remove the key"),
        (
            BASE + "verify:\n  screen:\n    model: null\n",
            [],
            "key 'verify.screen.model' is retired: no second model screens; remove",
        ),
        (BASE, ["verify.screen.model=x"], "key 'verify.screen.model' is retired: no second model screens; remove the key"),
        (
            BASE + "verify:\n  screen:\n    kind: small_model\n    model: x\n",
            [],
            "small_model is retired: give left_window or none",
        ),
        (BASE, ["verify.screen.kind=small_model"], "key 'verify.screen.kind': small_model is retired: give left_window or none"),
    ],
)
def test_mistakes_name_file_key_and_way_out(text: str, overrides: list[str], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert expected in message and "\n" not in message
    assert "mine.yaml" in message or (overrides and "override" in message)


def test_what_is_retired_is_no_key_today() -> None:
    assert {key for key, (value, _) in RETIRED.items() if value is None}.isdisjoint(keys_of(Config))
    assert {key for key, (value, _) in RETIRED.items() if value is not None} <= set(keys_of(Config))


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train:\n  learning_rate: 1e-5\n  rope_base: 2E+8\n")
    config = load_config(tmp_path / "a.yaml", ["train.weight_decay=5e-2", "train.clip=1"])
    assert (config.train.learning_rate, config.train.rope_base, config.train.weight_decay, config.train.clip) == (
        1e-5,
        2e8,
        0.05,
        1,
    )


def test_values_are_what_is_written(tmp_path: Path) -> None:
    """Nothing in a value is looked up or filled in, and no value stands for "missing", in files as in overrides."""
    written = ("${train.model}", "cost: ${5", "???", "{{ bos_token }}${x}")
    for value in written:
        (tmp_path / "a.yaml").write_text(f"train:\n  chat_template: '{value}'\n")
        assert load_config(tmp_path / "a.yaml").train.chat_template == value
        assert load_config("demo", [f"train.chat_template='{value}'"]).train.chat_template == value
    conf = load_config("demo", ["spark.conf.spark.sql.shuffle.partitions=012"]).spark.conf
    assert conf["spark.sql.shuffle.partitions"] == "012"


def test_extends_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(tmp_path / "a.yaml")


def test_input_replaces_the_sources(tmp_path: Path) -> None:
    (tmp_path / "My Docs.jsonl.gz").write_bytes(b"")
    config = load_config(CONF / "demo.yaml", input_path=str(tmp_path / "My Docs.jsonl.gz"))
    assert {name: s.kind for name, s in config.sources.items()} == {"my_docs": "jsonl"}
    table = load_config(CONF / "demo.yaml", input_path="main.raw.Articles")
    assert table.sources["articles"].table == "main.raw.Articles"


def test_a_file_name_with_dots_is_no_table() -> None:
    assert load_config(CONF / "base.yaml", input_path="docs.v2.jsonl").sources["docs"].path == "docs.v2.jsonl"
    assert load_config(CONF / "base.yaml", input_path="my-catalog.web.docs").sources["docs"].table == "my-catalog.web.docs"
