"""doctor, init, --help: what a user meets before the first run."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import zstandard

from entropylong import cli, doctor
from entropylong.cli_common import complete_config, complete_stage
from entropylong.config_files import load_config
from entropylong.corpus.look import FILE_BYTES, look_at, sample_files
from entropylong.errors import SourceError
from tests import tiny
from tests.conftest import MakeConfig

MAX = 20_000_000


def rows(n: int = 40) -> list[dict[str, object]]:
    """Records as somebody else has them."""
    texts = [str(row["text"]) for row in tiny.documents(n)]
    return [{"url": f"http://x/{i}", "lang": "en", "meta": {"a": 1}, "tags": ["t"], "body": t} for i, t in enumerate(texts)]


def lines(some: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in some)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_columns_are_found_in_each_kind(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"docs{ending}"
    data = lines(rows())
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows()), file)
    else:
        packed = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}
        file.write_bytes(packed[ending](data))
    kind = "parquet" if ending == ".parquet" else "jsonl"
    look = look_at(sample_files(kind, str(tmp_path)), kind, MAX)
    assert (look.text.column, look.doc_id.column) == ("body", "url")
    assert len(look.chars) == 40 and not look.refused and look.sample.documents == pytest.approx(40, rel=0.05)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """A hole of a terabyte behind some lines: it would take hours."""
    file = tmp_path / "large.jsonl"
    data = lines(rows()) * 100
    with file.open("wb") as handle:
        handle.write(data)
        handle.truncate(1 << 40)
    sample = sample_files("jsonl", str(file))
    assert len(data) < FILE_BYTES and len(sample.records) == 500
    assert sample.documents == pytest.approx((1 << 40) / len(data) * 4000, rel=0.1)


def test_text_files_have_their_path_as_id(tmp_path: Path) -> None:
    for number, row in enumerate(rows(5)):
        (tmp_path / f"{number}.txt").write_text(str(row["body"]))
    (tmp_path / "broken.txt").write_bytes(b"caf\xe9 au lait")
    look = look_at(sample_files("text", str(tmp_path)), "text", MAX)
    assert look.doc_id.column is None and len(look.chars) == 5 and look.refused == {"INVALID_UTF8": 1}


def test_damage_is_counted_as_a_run_would(tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    broken = b'{"body": nul\n[1]\n' + lines([{"body": None}, {"body": " "}, {"body": ["x"]}]) + b'{"body": "\xff"}\n'
    file.write_bytes(lines(rows()) + broken)
    look = look_at(sample_files("jsonl", str(file)), "jsonl", MAX)
    assert look.refused == {"INVALID_JSON": 2, "NO_TEXT": 2, "BLANK_TEXT": 1, "INVALID_UTF8": 1}


def test_ids_must_be_set_and_unique() -> None:
    twice = [{"text": "a b c", "id": 1}, {"text": "d e f", "id": 1}]
    assert "not unique" in look_at_rows(twice).doc_id.why and look_at_rows(twice).doc_id.column is None
    holes = [{"text": "a b c", "id": 1}, {"text": "d e f", "id": None}]
    assert "not set" in look_at_rows(holes).doc_id.why


def look_at_rows(some: list[dict[str, object]], **named: str):  # type: ignore[no-untyped-def]
    from entropylong.corpus.look import Sample

    return look_at(Sample(list(some), float(len(some))), "jsonl", MAX, **named)


@pytest.mark.parametrize(("some", "said"), [
    ([{"left": "abc def", "right": "ghi jkl"}], "columns left, right may all be the text; say which: --text left"),
    ([{"meta": {"text": "abc"}, "n": 3}], r"no column holds text in most records; there are: meta \(dict\), n \(int\)"),
    ([{"text": "\x00"}], "holds no usable text in 1 records"),
])  # fmt: skip
def test_one_line_where_the_text_cannot_be_told(some: list[dict[str, object]], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        look_at_rows(some)
    with pytest.raises(SourceError, match="there is no column 'no'; there are:"):
        look_at_rows(some, text="no")


def test_a_config_is_written_that_runs_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs.jsonl").write_bytes(lines(rows()))
    monkeypatch.chdir(tmp_path)
    assert cli.call(["init", "docs.jsonl"]) == 0
    assert "entropylong run --config docs.yaml" in capsys.readouterr().out
    assert cli.call(["init", "docs.jsonl"]) == 2 and "docs.yaml is there already" in capsys.readouterr().err
    assert cli.call(["init", "docs.jsonl", "--force", "--text", "lang", "--id", "body"]) == 0
    assert load_config(tmp_path / "docs.yaml").sources["docs"].columns.text == "lang"
    assert cli.call(["init", "docs.jsonl", "--force"]) == 0
    monkeypatch.chdir("/")
    loaded = load_config(tmp_path / "docs.yaml")
    source = loaded.sources["docs"]
    assert (source.kind, source.path, source.columns.text) == ("jsonl", str(tmp_path / "docs.jsonl"), "body")
    assert loaded.workspace == str(tmp_path / "runs" / "docs") and source.columns.doc_id == "url"


@pytest.mark.parametrize(("content", "said"), [
    (None, "no such file or directory"), (b"", "holds no byte"), (b"\n\n", "blank lines alone"),
    (b"\x80\x81\x00\xff" * 1000, "INVALID_UTF8"), (b"PK\x03\x04 no json\n", "INVALID_JSON"),
])  # fmt: skip
def test_init_says_in_one_line_what_is_no_corpus(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "docs.jsonl").write_bytes(content)
    assert cli.call(["init", "docs.jsonl"]) == 1
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (tmp_path / "docs.yaml").exists()


def test_from_init_to_sequences(spark: object, make_config: MakeConfig, tmp_path: Path) -> None:
    """What init writes, with the tests' models and sizes: the run finds the columns and refuses what init said it would."""
    from entropylong.runner import Runner

    (tmp_path / "docs.jsonl").write_bytes(lines(rows(12)) + b"{broken\n")
    assert cli.call(["init", str(tmp_path / "docs.jsonl"), "--out", str(tmp_path / "docs.yaml")]) == 0
    written = load_config(tmp_path / "docs.yaml").sources["docs"]
    keys = [f"sources.docs.columns.text={written.columns.text}", f"sources.docs.columns.doc_id={written.columns.doc_id}"]
    config = make_config(tmp_path / "work", tmp_path / "docs.jsonl", "quarantine.max_rate=0.2", *keys)
    runner = Runner(config, spark)
    runner.run(["ingest"], announce=lambda line: None)
    documents = runner.store.read("documents", runner.fingerprint("documents") or "")
    assert documents.where("outcome = 'ok' AND doc_id LIKE 'http://x/%'").count() == 12
    assert [row.code for row in documents.where("outcome = 'error'").collect()] == ["INVALID_JSON"]


def test_doctor_passes_here_and_says_what_to_mend(
    spark: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("small", [f"workspace={tmp_path}"])
    found = {one.part: one for one in doctor.examine(config)}
    assert {part for part, one in found.items() if one.state == "fix"} == set()
    assert "read back" in found["Spark and Delta"].found and found["input"].state == "note"
    broken = load_config("small", [
        "workspace=/proc/nowhere", "model.name=wheel:no_such/model", "tracking.uri=http://me:secret@127.0.0.1:9",
        "sources.docs.kind=jsonl", f"sources.docs.path={tmp_path / 'none.jsonl'}",
    ])  # fmt: skip
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_IMPORTED", ("no_such_library",))
    found = {one.part: one for one in doctor.examine(broken)}
    wrong = {part for part, one in found.items() if one.state == "fix"}
    assert wrong >= {"libraries", "Java", "disk", "models", "input", "MLflow"}
    assert "Java is not installed" in found["Java"].remedy and "secret" not in found["MLflow"].remedy
    assert "no_such_library cannot be imported" in found["libraries"].found
    assert cli.call(["doctor", "workspace=/proc/nowhere", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert {one["part"]: one["state"] for one in said}["disk"] == "fix"


def test_a_model_of_the_hub_that_is_not_here_is_a_note_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = doctor._models(load_config("small", [f"workspace={tmp_path}", "model.name=nobody/nothing"]))
    assert (found.state, found.found) == ("note", "not on this machine yet: nobody/nothing")


def _commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(group, click.Group) or hasattr(group, "commands"):
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            yield from _commands(command, (*path, name))
    else:
        yield path, group


COMMANDS = dict(_commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_examples_that_parse(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    examples = re.findall(r"(?m)^\s+entropylong (.+)$", (command.help or "").partition("Examples:")[2])
    assert examples, f"entropylong {' '.join(path)} --help needs an example"
    for example in examples:
        words = shlex.split(example, comments=True)
        assert tuple(words[: len(path)]) == path
        command.make_context(path[-1], words[len(path) :])


def test_the_shell_completes_configs_and_stages() -> None:
    assert "demo" in complete_config("de") and "paper" not in complete_config("de")
    assert complete_stage("s") == ["score", "search"]


def test_an_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "open_runner", lambda *_: (_ for _ in ()).throw(ModuleNotFoundError("no", name="pyspark")))
    assert cli.call(["status", f"workspace={tmp_path}"]) == 1
    assert (
        capsys.readouterr().err
        == "error: pyspark is not installed; pip install 'entropylong[spark]' (entropylong doctor looks at all)\n"
    )
