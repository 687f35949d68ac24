"""Chunking by property, readers by damage."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from entropylong.corpus.chunking import chunk_text, split_long
from entropylong.corpus.sources.base import Record, Unit
from entropylong.corpus.sources.demo import demo_documents
from entropylong.corpus.sources.registry import unit_source
from entropylong.errors import SourceError

pytestmark = pytest.mark.runtime

texts = st.text(alphabet="ab .\n!é", max_size=300)


@given(text=texts, target=st.integers(1, 40), extra=st.integers(0, 40))
def test_chunks_lose_no_character(text: str, target: int, extra: int) -> None:
    chunks = chunk_text(text, unit="packed_chars", target_chars=target, max_chars=target + extra)
    solid = "".join("".join(chunks).split())
    assert solid == "".join(text.split())
    assert all(chunk.strip() for chunk in chunks)
    for chunk in chunks:
        paragraphs = chunk.split("\n")
        assert sum(map(len, paragraphs)) <= target or len(paragraphs) == 1
        assert len(chunk) <= target + extra or len(paragraphs) > 1


@given(text=texts, target=st.integers(1, 40))
def test_packing_of_paragraphs_is_greedy(text: str, target: int) -> None:
    chunks = chunk_text(text, unit="packed_chars", target_chars=target, max_chars=10**6)
    slow: list[list[str]] = [[]]
    for paragraph in text.split("\n"):
        if slow[-1] and sum(map(len, slow[-1])) + len(paragraph) > target:
            slow.append([])
        slow[-1].append(paragraph)
    assert chunks == [c for c in ("\n".join(p) for p in slow) if c.strip()]


@given(line=texts, limit=st.integers(1, 30))
def test_split_pieces_join_again(line: str, limit: int) -> None:
    pieces = list(split_long(line, limit))
    assert "".join(pieces) == line and all(len(p) <= limit for p in pieces)


def test_long_paragraphs_split_at_sentences_then_words() -> None:
    assert list(split_long("One two. Three four five.", 15)) == ["One two. ", "Three four ", "five."]


def test_whole_documents() -> None:
    assert chunk_text("a\n\nb", unit="document", target_chars=1, max_chars=1) == ["a\n\nb"]


def read(path: Path, kind: str = "jsonl", text: str = "text", unit_bytes: int = 10**6, max_chars: int = 10**7) -> list[Record]:
    reader = unit_source(kind)
    return [
        r for u in reader.list_units("s", str(path), unit_bytes) for r in reader.records(u, str(path), text, "doc_id", max_chars)
    ]


def read_some(path: Path, unit_bytes: int) -> list[Record]:
    """Without the rows of ranges in which no record begins."""
    return [r for r in read(path, unit_bytes=unit_bytes) if r.code != "EMPTY_UNIT"]


def test_every_damage_has_its_code(tmp_path: Path) -> None:
    lines = [
        b'{"doc_id": "good", "text": "fine <|endoftext|> text"}',
        b'{"doc_id": "null", "text": null}',
        b'{"doc_id": "empty", "text": ""}',
        b'{"doc_id": "white", "text": " \\n\\t "}',
        b'{"doc_id": "missing"}',
        b'{"doc_id": "number", "text": 5}',
        b'{"doc_id": "latin", "text": "caf\xe9"}',
        b'{"doc_id": "half", "text": "\\ud800 lone"}',
        b'{"doc_id": "nul", "text": "a\\u0000b"}',
        b"not json",
        b"[1, 2]",
        b'{"doc_id": "big", "text": "' + b"x" * 200 + b'"}',
        b'{"text": "no id"}',
        b"",
    ]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(lines))
    records = read(path, max_chars=100)
    assert [(r.outcome, r.code) for r in records] == [
        ("ok", None), ("error", "NO_TEXT"), ("skipped", "BLANK_TEXT"), ("skipped", "BLANK_TEXT"), ("error", "NO_TEXT"),
        ("error", "NO_TEXT"), ("error", "INVALID_UTF8"), ("error", "LONE_SURROGATE"), ("error", "NUL_BYTE"),
        ("error", "INVALID_JSON"), ("error", "INVALID_JSON"), ("error", "DOCUMENT_TOO_LONG"), ("ok", None),
    ]  # fmt: skip
    assert len({r.origin for r in records}) == len(records)
    assert all((r.detail is None) == (r.outcome == "ok") for r in records)
    assert records[0].text == "fine <|endoftext|> text" and len(records[-1].doc_id) == 32


@pytest.mark.parametrize("unit_bytes", [1, 7, 50, 10**6])
def test_ranges_of_a_file_give_each_line_once(tmp_path: Path, unit_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"doc_id": str(i), "text": "é" * (i % 9 + 1)}) + "\n" for i in range(40)))
    assert [r.doc_id for r in read_some(path, unit_bytes)] == [str(i) for i in range(40)]
    origins = {r.origin.rpartition(":")[0] for r in read(path, unit_bytes=unit_bytes)}
    assert origins == {u.name for u in unit_source("jsonl").list_units("s", str(path), unit_bytes)}, (
        "a unit without a row is read for ever"
    )


def test_compressed_and_cut_off_files(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"doc_id": str(i), "text": f"text {i} " + "x" * i}) + "\n" for i in range(500)).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines)[:900])
    records = read(tmp_path)
    by_file = {name: [r for r in records if r.origin.startswith(name)] for name in ("a.", "b.", "c.")}
    assert len(by_file["a."]) == len(by_file["b."]) == 500 and all(r.outcome == "ok" for r in by_file["a."] + by_file["b."])
    assert by_file["c."][-1].code == "UNREADABLE_FILE" and all(r.outcome == "ok" for r in by_file["c."][:-1])


def test_parquet_with_other_columns_and_broken_utf8(tmp_path: Path) -> None:
    values = pa.array([b"good text", b"caf\xe9", None, b"more"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"doc_id": ["a", "b", "c", "d"], "content": values})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=1)
    records = read(tmp_path, "parquet", text="content", unit_bytes=1)
    assert [(r.doc_id, r.code) for r in records] == [("a", None), ("b", "INVALID_UTF8"), ("c", "NO_TEXT"), ("d", None)]
    ids = pa.array([b"a", b"\xff", b"c", b"d"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"doc_id": ids, "text": ["1", "2", "3", "4"]}), tmp_path / "ids.parquet")
    assert [r.code for r in read(tmp_path / "ids.parquet", "parquet")] == [None, "INVALID_UTF8", None, None]
    (tmp_path / "ids.parquet").unlink()
    (record, *_) = read(tmp_path, "parquet")
    assert record.code == "UNREADABLE_FILE" and "columns.text" in (record.detail or "")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 not parquet")
    assert read(tmp_path / "y.parquet", "parquet")[0].code == "UNREADABLE_FILE"


def test_text_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("hello there")
    (tmp_path / "b.md").write_text("more text")
    assert [(r.doc_id, r.text) for r in read(tmp_path, "text")] == [("b.md", "more text"), ("sub/a.txt", "hello there")]


def test_missing_paths_and_folders_without_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no jsonl file"):
        read(tmp_path)


def test_the_demo_corpus_is_real_text() -> None:
    documents = dict(demo_documents("scipy.signal"))
    assert len(documents) > 100 and all(len(t) >= 500 for t in documents.values())
    assert "Butterworth" in documents["scipy.signal._filter_design.butter"]
    assert len(dict(demo_documents("pydoc_data.topics"))) > 40


@given(place=st.integers(10, 800), damage=st.binary(min_size=1, max_size=30))
def test_a_damaged_gzip_gives_rows_whatever_the_damage(tmp_path_factory: pytest.TempPathFactory, place: int, damage: bytes) -> None:
    lines = "".join(json.dumps({"text": f"text {i} " + "x" * (i % 7)}) + "\n" for i in range(500)).encode()
    content = bytearray(gzip.compress(lines, mtime=0))
    content[place : place + len(damage)] = damage
    path = tmp_path_factory.mktemp("gz") / "x.jsonl.gz"
    path.write_bytes(content)
    assert read(path)


def test_files_are_looked_into_at_the_same_time_and_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        rows = pa.table({"doc_id": [f"{number}-{row}" for row in range(4)], "text": ["some text"] * 4})
        pq.write_table(rows, tmp_path / f"{number:02}.parquet", row_group_size=1)
    reader = unit_source("parquet")
    expected = [
        f"{file.name}@{file.stat().st_size}[{group}-{group + 1}]" for file in sorted(tmp_path.iterdir()) for group in range(4)
    ]
    others, split = threading.Barrier(4, timeout=30), type(reader).split

    def meet(*args: Any) -> list[Unit]:
        others.wait()  # one alone would wait for ever
        return split(*args)

    monkeypatch.setattr(type(reader), "split", meet)
    assert [unit.name for unit in reader.list_units("s", str(tmp_path), 1)] == expected
