"""init: what it sees in a corpus, what config it writes, and that a run takes it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from entropylong.cli import app
from entropylong.config import load_config
from entropylong.config.sources import SourceConfig
from entropylong.corpus.sampling import profile_corpus, sample_source
from entropylong.corpus.sources.base import Extent, Sample
from entropylong.corpus.sources.demo import demo_documents
from entropylong.corpus.sources.registry import SOURCES
from entropylong.errors import SourceError
from tests import tiny
from tests.conftest import MakeConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MAX = 20_000_000


def no_spark() -> SparkSession:
    raise AssertionError("files need none")


def sample_files(kind: str, path: str) -> Sample:
    return sample_source(SourceConfig.model_validate({"kind": kind, "path": path}), no_spark)


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
    profile = profile_corpus(sample_files(kind, str(tmp_path)), kind, MAX)
    assert (profile.text.column, profile.doc_id.column) == ("body", "url")
    assert len(profile.chars) == 40 and not profile.refused and profile.sample.documents == pytest.approx(40, rel=0.05)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """A hole of a terabyte behind some lines: it would take hours."""
    file = tmp_path / "large.jsonl"
    data = lines(rows()) * 100
    with file.open("wb") as handle:
        handle.write(data)
        handle.truncate(1 << 40)
    sample = sample_files("jsonl", str(file))
    assert len(data) < Extent.n_bytes and len(sample.records) == 500
    assert sample.documents == pytest.approx((1 << 40) / len(data) * 4000, rel=0.1)


def test_text_files_have_their_path_as_id(tmp_path: Path) -> None:
    for number, row in enumerate(rows(5)):
        (tmp_path / f"{number}.txt").write_text(str(row["body"]))
    (tmp_path / "broken.txt").write_bytes(b"caf\xe9 au lait")
    profile = profile_corpus(sample_files("text", str(tmp_path)), "text", MAX)
    assert profile.doc_id.column is None and len(profile.chars) == 5 and profile.refused == {"INVALID_UTF8": 1}


def test_damage_is_counted_as_a_run_would(tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    broken = b'{"body": nul\n[1]\n' + lines([{"body": None}, {"body": " "}, {"body": ["x"]}]) + b'{"body": "\xff"}\n'
    file.write_bytes(lines(rows()) + broken)
    profile = profile_corpus(sample_files("jsonl", str(file)), "jsonl", MAX)
    assert profile.refused == {"INVALID_JSON": 2, "NO_TEXT": 2, "BLANK_TEXT": 1, "INVALID_UTF8": 1}


def test_ids_must_be_set_and_unique() -> None:
    twice = [{"text": "a b c", "id": 1}, {"text": "d e f", "id": 1}]
    assert "not unique" in look_at_rows(twice).doc_id.why and look_at_rows(twice).doc_id.column is None
    holes = [{"text": "a b c", "id": 1}, {"text": "d e f", "id": None}]
    assert "not set" in look_at_rows(holes).doc_id.why
    assert look_at_rows(twice).doc_id.why.endswith("--id NAME takes a column")
    page = [row | {"n": number, "a page": f"p{number}"} for number, row in enumerate(twice)]
    assert "--id 'a page' takes 'a page', a value of its own" in look_at_rows(page).doc_id.why, "numbers may be measures"
    assert look_at_rows(twice, doc_id="id").refused == {"CONFLICTING_ID": 1}, "named all the same: what a run would say"


def test_columns_half_null_are_taken_and_what_stops_a_run_is_told() -> None:
    from entropylong.corpus.init_config import what_was_seen

    profile = look_at_rows([{"body": "a text " * 9 if i % 2 else None, "url": f"http://x/{i}"} for i in range(10)])
    assert (profile.text.column, profile.doc_id.column, profile.refused, profile.errors) == ("body", "url", {"NO_TEXT": 5}, 5)
    summary = dict(what_was_seen(profile, load_config("small")))
    assert "over 5% are refused" in summary["mind"] and "a run would find no root" in summary["long enough for a root"]


def test_what_is_damaged_in_a_file_costs_only_that(tmp_path: Path) -> None:
    """A gzip file that breaks off, one longer line than is read at first, a parquet cell that is not UTF-8."""
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(lines(rows()))[:-20])
    sample = sample_files("jsonl", str(tmp_path / "cut.jsonl.gz"))
    assert len(sample.records) >= 39 and profile_corpus(sample, "jsonl", MAX).refused == {"UNREADABLE_FILE": 1}
    (tmp_path / "book.jsonl").write_bytes(lines([{"text": "word " * Extent.n_bytes}]))
    assert profile_corpus(sample_files("jsonl", str(tmp_path / "book.jsonl")), "jsonl", 5 * MAX).median_chars == 5 * Extent.n_bytes
    cells = pa.array([b"fine", b"caf\xe9"]).cast(pa.large_binary())
    text = pa.LargeStringArray.from_buffers(2, cells.buffers()[1], cells.buffers()[2])
    pq.write_table(pa.table({"text": text}), tmp_path / "docs.parquet")
    profile = profile_corpus(sample_files("parquet", str(tmp_path / "docs.parquet")), "parquet", MAX)
    assert profile.chars == [4] and profile.refused == {"INVALID_UTF8": 1}


def test_a_large_row_group_is_not_read_whole(tmp_path: Path) -> None:
    """200 MB of text in one row group: peak memory of a process that looks at it."""
    pq.write_table(pa.table({"text": ["word " * 2000] * 20_000}), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size > 190e6
    code = (
        "import resource; from entropylong.corpus.sources.base import Extent; from entropylong.config.sources import SourceConfig; "
        "from entropylong.corpus.sources.parquet import RECORD; peak = lambda: resource.getrusage(0).ru_maxrss; before = peak(); "
        f"sample = RECORD.sample('docs', SourceConfig(kind='parquet', path={str(tmp_path)!r}), None, Extent()); "
        "assert len(sample.records) == 500; print(peak() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 60_000, "KiB"


def test_files_of_another_kind_are_told(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_bytes(lines(rows(3)))
    (tmp_path / "sub").mkdir()
    for name in ("sub/notes.txt", "sub/table.csv", ".hidden.txt"):
        (tmp_path / name).write_text("x")
    assert sample_files("jsonl", str(tmp_path)).others == {"text": 1, "other": 1}


def look_at_rows(some: list[dict[str, object]], **named: str):  # type: ignore[no-untyped-def]
    return profile_corpus(Sample(list(some), float(len(some))), "jsonl", MAX, **named)


@pytest.mark.parametrize(("some", "message"), [
    ([{"left": "abc def", "right": "ghi jkl", "id": "a"}], "each of the columns left, right may be the text; say which: --text l"),
    ([{"text": "short", "body": "long " * 20}], "each of the columns body, text may be the text"),
    ([{"meta": {"text": "abc"}, "n": 3, "id": "a b"}], r"no column holds text; there are: meta \(nested\), n \(int\), id \(an id"),
    ([{"body": None, "url": "http://x"}], r"no column holds text; there are: body \(null\), url \(an id"),
    ([{"k\ud800": "such a name can stand in no config", "id": "a"}], r"no column holds text; there are: id \(an id"),
    ([{"text": "\x00"}, {"text": ""}], r"holds no usable text in 2 records \(1 NUL_BYTE, 1 BLANK_TEXT\)"),
])  # fmt: skip
def test_one_line_where_the_text_cannot_be_told(some: list[dict[str, object]], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        look_at_rows(some)
    with pytest.raises(SourceError, match="there is no column 'no'; there are:"):
        look_at_rows(some, text="no")


def test_a_config_is_written_that_runs_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs.jsonl").write_bytes(lines(rows()))
    monkeypatch.chdir(tmp_path)
    assert app.call(["init", "docs.jsonl"]) == 0
    assert "entropylong run --config docs.yaml" in capsys.readouterr().out
    assert app.call(["init", "docs.jsonl"]) == 2 and "docs.yaml is there already" in capsys.readouterr().err
    assert app.call(["init", "docs.jsonl", "--force", "--text", "lang", "--id", "body"]) == 0
    assert load_config(tmp_path / "docs.yaml").sources["docs"].columns.text == "lang"
    assert app.call(["init", "docs.jsonl", "--force"]) == 0
    monkeypatch.chdir("/")
    loaded = load_config(tmp_path / "docs.yaml")
    source = loaded.sources["docs"]
    assert (source.kind, source.path, source.columns.text) == ("jsonl", str(tmp_path / "docs.jsonl"), "body")
    assert loaded.workspace == str(tmp_path / "runs" / "docs") and source.columns.doc_id == "url"


@pytest.mark.parametrize(("content", "message"), [
    (None, "no such file or directory"), (b"", "holds no byte"), (b"\n\n", "there is none"),
    (b"\x80\x81\x00\xff" * 1000, "INVALID_UTF8"), (b"PK\x03\x04 no json\n", "INVALID_JSON"),
    (b'[{"text": "a"}]', "jq -c"), (b'{"text": "caf\xe9"}', "iconv"),
])  # fmt: skip
def test_init_says_in_one_line_what_is_no_corpus(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "docs.jsonl").write_bytes(content)
    assert app.call(["init", "docs.jsonl"]) == 1
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.count("\n") == 1 and not (tmp_path / "docs.yaml").exists()


def test_a_table_s_sample_is_bounded_by_characters_and_without_what_is_nested(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "docs"
    nested = "array(1.0, 2.0) AS vector, named_struct('a', 1) AS meta, map('a', 1) AS m"
    spark.sql(f"SELECT 'd' || id AS `an.id`, repeat('word ', 200) AS body, {nested} FROM range(40)").write.format("delta").save(
        str(table)
    )
    sample = SOURCES["delta"].sample("docs", SourceConfig(kind="delta", path=str(table)), lambda: spark, Extent(n_bytes=1000))
    ids = {record["an.id"] for record in sample.records}
    assert len(ids) == len(sample.records) == 15 and sample.documents == 40, "16 files' worth of characters"
    for record in sample.records:
        assert record == {"an.id": record["an.id"], "body": "word " * 200, "vector": [], "meta": {}, "m": {}}


def test_from_init_to_sequences(
    spark: object, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real text under other names of columns: the config that init writes runs as it is, with the tests' models and sizes."""
    monkeypatch.chdir(tmp_path)
    texts = [(name, text) for name, text in demo_documents("pydoc_data.topics") if 1500 < len(text) < 4000][:8]
    file = tmp_path / "docs.jsonl"
    file.write_bytes(lines([{"url": f"doc/{name}", "body": text} for name, text in texts]) + b"{broken\n")
    assert app.call(["init", "docs.jsonl"]) == 0
    assert "1 INVALID_JSON of" in capsys.readouterr().out
    small = make_config(tmp_path / "runs" / "docs", file)
    keys = [f"{key}={getattr(getattr(small, key.split('.')[0]), key.split('.')[1])}" for key in (
        "model.name", "encoder.name", "roots.max_tokens", "contexts.max_tokens", "chunks.target_chars", "chunks.max_chars",
        "pack.length", "accept.rule", "accept.epsilon",
    )]  # fmt: skip
    keys += [f"node_cache={small.node_cache}", "roots.min_tokens=64", "accept.max_copy_tokens=null", "quarantine.max_rate=0.2"]
    assert app.call(["run", "--config", "docs.yaml", *keys]) == 0
    capsys.readouterr()
    assert app.call(["status", "--config", "docs.yaml", "--json", *keys]) == 0
    by_stage = {row["stage"]: row for row in json.loads(capsys.readouterr().out)}
    assert {row["left"] for row in by_stage.values()} == {0}
    assert by_stage["ingest"]["quarantined"] == 1 and by_stage["pack"]["done"] > 0, by_stage
    assert app.call(["inspect", f"doc/{texts[0][0]}", "--config", "docs.yaml", *keys]) == 0, "ids are those of the column"
