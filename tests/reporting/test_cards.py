"""Cards: what the hub reads in them, and that each number is the tables'. No path of this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

import entropylong
from entropylong.cli.app import call
from entropylong.config import Config
from entropylong.errors import NothingToDoError, UsageError
from entropylong.evaluation.results import Result
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.pipeline.runner import Runner
from entropylong.pipeline.steps import STEPS
from entropylong.reporting.cards import model as of_model
from entropylong.reporting.cards.dataset import DatasetFacts, dataset_card, excluded_names, gather_facts
from entropylong.reporting.cards.front import hub_id, public_name, size_category
from entropylong.training.run import Prepared
from entropylong.training.steps import read_steps
from tests import tiny
from tests.conftest import CONF, OpenRunner

pytestmark = pytest.mark.runtime


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the first Markdown table under a line that starts so."""
    rows = text[text.index(head) :].split("\n|---", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture(scope="module")
def facts(finished_runner: Runner) -> DatasetFacts:
    return gather_facts(finished_runner.state)


def test_the_card_of_the_sequences(finished_runner: Runner, facts: DatasetFacts, finished: Path) -> None:
    text = dataset_card(facts, "cc-by-4.0")
    data = DatasetCard(text).data
    assert (data.license, data.size_categories, data.task_categories) == ("cc-by-4.0", ["n<1K"], ["text-generation"])
    assert {"entropylong", "long-context"} <= set(data.tags)

    value = finished_runner.state.fingerprint("sequences") or ""
    rows = finished_runner.state.store.read_ok("sequences", value).collect()
    pieces = [segment for row in rows for segment in row.segments]
    padding = sum(s.end - s.start for s in pieces if s.kind == "pad") / (1024 * len(rows))
    size = dict(table(text, "## Size"))
    assert size["sequences"] == str(len(rows)) and size["tokens"] == f"{1024 * len(rows):,}"
    assert size["groups (a root with its contexts)"] == str(sum(s.kind == "root" for s in pieces))
    assert size["dependencies"] == str(sum(len(row.dependencies) for row in rows)) != "0"
    assert size["padding"] == f"{padding:.1%}" and size["filler"] == "0.0%"

    cells = finished_runner.state.readings().collect()
    shares = [
        sum(c.passes_paper for c in cells if c.kind == kind) / sum(c.kind == kind for c in cells)
        for kind in ("retrieved", "same_root", "random")
    ]
    (paper,) = [row for row in table(text, "## How much") if row[0].endswith("(in force)")]
    assert paper[0].startswith("the paper's") and paper[1:] == [*(f"{s:.1%}" for s in shares), f"{shares[2] / shares[0]:.2f}"]
    assert f"Random chunks pass the rule in force in {shares[2]:.1%}" in text and f"about {shares[2] / shares[0]:.0%}" in text
    assert "(H - H') / H > 0.02" in text and "negative log-likelihood falls" not in text, "the rule in force, no other"

    exported = finished_runner.state.store.read_all("sequences").drop("fingerprint", "outcome", "code", "detail")
    assert [row[0] for row in table(text, "## Columns")] == exported.columns
    documents = finished_runner.state.ok_rows("documents").count()
    assert table(text, "## Where") == [["corpus", "jsonl", "root and corpus", str(documents)]]
    hashes = {row[0]: row[2] for row in table(text, "| model |")}
    assert hashes["lm"] == f"{finished_runner.state.context.causal_lm.fingerprint}:float32" and hashes["encoder"].startswith(
        finished_runner.state.context.encoder.fingerprint
    )
    origins = {row[0]: row[1:] for row in table(text, "| table | fingerprint")}
    assert list(origins) == [step.writes for step in STEPS]
    assert origins["sequences"] == [value, str(finished_runner.state.store.version("sequences"))] and origins["index"][1] == ""
    assert f"Made by entropylong {entropylong.__version__}; this card" in text
    assert "No evaluation set was kept out" in text and "as stated by who publishes this" in text
    for private in (
        str(finished),
        str(Path(finished_runner.config.model.name).parent),
        finished_runner.config.sources["corpus"].path or "?",
    ):
        assert private not in text


def test_what_is_not_known_or_not_so_is_not_said(facts: DatasetFacts) -> None:
    bare = dataset_card(facts)
    assert DatasetCard(bare).data.license is None and "**None is stated.**" in bare
    uncontrolled = {name: value for name, value in facts.figures.items() if "random" not in name and not name.startswith("fdr")}
    (row,) = [row for row in table(dataset_card(replace(facts, figures=uncontrolled)), "## How much") if "(in force)" in row[0]]
    assert row[3:] == ["", ""] and "by chance (FDR" not in dataset_card(replace(facts, figures=uncontrolled))
    refused = facts.figures | {"error_chunks_CONTAMINATED": 3.0}
    text = dataset_card(replace(facts, figures=refused, excluded=["exam|`1`.jsonl"]))
    assert ["chunks", "error", "CONTAMINATED", "3"] in table(text, "Left out on the way")
    assert "share 13 words in a row with `exam\\|'1'.jsonl`" in text
    strict = facts.config.with_keys(accept={"rule": "specific"}, pack={"recipe": "noverify"})
    other = dataset_card(replace(facts, config=strict, groups=None))
    assert "falls by more than 0.693 nats (its probability is more than 2 times as high)" in other
    assert (
        "No link was verified" in other
        and "dependencies" not in dict(table(other, "## Size"))
        and "groups (a root" not in other
        and "would have passed by chance" not in other
    )


def test_evaluation_sets_by_their_names(open_runner: OpenRunner, tmp_path: Path) -> None:
    exam = tiny.write_jsonl(tmp_path / "private" / "exam.jsonl", [{"q": " ".join(f"word{n}" for n in range(20))}])
    assert excluded_names(open_runner(tmp_path / "work", f"corpus.exclude=[{exam}]").state) == ["exam.jsonl"]
    assert excluded_names(open_runner(tmp_path / "work").state) == []


def test_the_commands(finished: Path, open_runner: OpenRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = open_runner(finished).config
    file, out = tmp_path / "mine.yaml", tmp_path / "new" / "README.md"
    file.write_text(json.dumps({"extends": "base", **json.loads(config.model_dump_json())}))
    assert call(["card", "dataset", "--config", str(file), "--out", str(out)]) == 0
    assert DatasetCard.load(out).data.size_categories == ["n<1K"] and capsys.readouterr().out == f"Card: {out}\n"
    refused = [
        (["dataset", "--config", str(file), "accept.epsilon=0.77"], 1, "card dataset: nothing is packed under this config yet"),
        (["dataset", "--config", str(file), "--license", "My own"], 2, "--license 'My own': give an identifier"),
        (["dataset", "--config", str(file), "--out", str(file / "x")], 2, "card: cannot write"),
        (["model", "--config", str(file)], 1, "card model: no training run of this config is at its end"),
    ]
    for arguments, code, message in refused:
        assert call(["card", *arguments]) == code
        output = capsys.readouterr()
        assert message in output.err and len(output.err.strip().splitlines()) == 1 and not output.out, output


def check_model_card(config: Config, done: Prepared, tmp_path: Path) -> None:
    """The card of a run that ended; `test_training_command` calls it on the one it makes."""
    judged = prepare(ModelSpec(str(done.result)), config.cache_folder).fingerprint
    for name, model_hash in (("ours", judged), ("another", "0" * 16)):
        facts = {"benchmark": "ruler", "label": "RULER-compatible", "model": "m", "model_hash": model_hash, "samples": 2}
        folder = Path(config.workspace) / "evaluation" / "ruler" / name
        folder.mkdir(parents=True)
        Result(folder, facts, {f"ruler.{name}": 0.25}).kept([], {})
    text = of_model.model_card(of_model.gather_facts(config), "apache-2.0")
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        None,
        "transformers",
        "text-generation",
    )
    curve, (feed,) = read_steps(done.folder), done.feeds
    rows = dict(table(text, "## Training"))
    assert rows["steps"] == f"{len(curve)} of 2 sequences" and rows["tokens"].startswith(f"{sum(s.tokens for s in curve):,}")
    assert rows["loss at the first step"] == f"{curve[0].loss:.4f}" and rows["loss at the last step"] == f"{curve[-1].loss:.4f}"
    manifest = feed.manifest
    assert table(text, "## Data") == [
        ["sequences, recipe verified", "100%", str(manifest.rows), str(manifest.version), manifest.fingerprint, manifest.identity]
    ]
    assert f"Of the sequences `{manifest.fingerprint}`: dependencies " in text
    assert done.model.fingerprint in text and judged in text and done.folder.name in text
    assert table(text, "## Evaluation") == [["ruler.ours", "0.25"]] and "(samples 2)" in text
    assert str(tmp_path.parent) not in text and "rotary" not in text
    assert "**None is stated.**" in of_model.model_card(of_model.gather_facts(config, done.folder.name))
    with pytest.raises(UsageError, match=rf"name the run with --run, one of: {done.folder.name} \(verified\)"):
        of_model.gather_facts(config, "another")
    with pytest.raises(NothingToDoError, match="no training run of this config"):
        of_model.gather_facts(config.with_keys(train={"learning_rate": 3e-3}))


def test_names_are_public() -> None:
    assert public_name("owner/model") == hub_id("owner/model") == "owner/model"
    assert public_name("/srv/customer/llama-3-8b") == "llama-3-8b" and hub_id("/srv/customer/llama-3-8b") is None
    assert (
        public_name(str(CONF)) == "conf" and hub_id("wheel:a/b.gguf") is None and public_name("wheel:a/b.gguf") == "wheel:a/b.gguf"
    )
    sizes = (999, 1000, 30_500, 10**12, 10**13)
    assert [size_category(n) for n in sizes] == ["n<1K", "1K<n<10K", "10K<n<100K", "n>1T", "n>1T"]
