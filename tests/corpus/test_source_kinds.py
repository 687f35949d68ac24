"""The registry of source kinds: the config names all of them, and one more file is one more kind everywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from entropylong.config import Config, load_config
from entropylong.config.sources import SOURCE_ENDINGS, TABLE_SOURCES, ColumnsConfig, SourceConfig, SourceKind
from entropylong.corpus import sources
from entropylong.corpus.init_config import config_text
from entropylong.corpus.sampling import profile_corpus, sample_source
from entropylong.corpus.sources.base import RECORD_COLUMNS, Extent, SourceReader, TableSource
from entropylong.corpus.sources.registry import SOURCES, all_units, unit_source
from entropylong.errors import SourceError
from entropylong.pipeline.preflight import check_sources
from entropylong.planning.corpus import corpus_size
from tests.verification.variants import comment_above, one_more, records_in

PACKAGE = Path(__file__).parents[2] / "entropylong"
DUMMY = '''
"""A line is a document, its number the id."""
from entropylong.corpus.sources.files import FileSource, filesystem


class Dummy(FileSource):
    kind = "dummy"
    endings = (".dummy",)

    def read(self, unit, root, text_column, id_column):
        with filesystem(root)[0].open_input_stream(unit.path) as handle:
            yield from enumerate(handle.read().splitlines())

    def beginning(self, unit, root, extent):
        rows = [{"doc_id": doc_id, extent.text: line} for doc_id, line in self.read(unit, root, extent.text, None)]
        return rows, float(unit.n_bytes)


RECORD = Dummy()
'''
TEXTS = ["a first text of some words", "", "a second text, with caf\xe9 in it"]


def no_spark() -> None:
    raise AssertionError("files need none")


@pytest.fixture
def dummy(tmp_path: Path) -> Iterator[Config]:
    """A config with one source of a kind that exists as a file alone."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.dummy").write_text("\n".join(TEXTS))
    (folder / "b.dummy").write_bytes(b"not \xff UTF-8")
    (folder / "c.txt").write_text("of another kind")
    source = SourceConfig.model_construct(kind="dummy", path=str(folder), table=None, columns=ColumnsConfig(), role="both")
    with one_more(sources, SOURCES, "dummy", SourceReader, DUMMY, tmp_path):
        yield load_config("small").model_copy(update={"sources": {"docs": source}})


def test_the_config_names_each_kind() -> None:
    kinds = {kind.value for kind in SourceKind}
    assert set(get_args(SourceConfig.model_fields["kind"].annotation)) == kinds == set(SOURCES) == set(records_in(sources))
    assert all(reader.kind == kind for kind, reader in SOURCES.items())
    assert {kind: reader.endings for kind, reader in SOURCES.items() if reader.endings} == SOURCE_ENDINGS
    assert {kind for kind, reader in SOURCES.items() if isinstance(reader, TableSource)} == set(TABLE_SOURCES)
    comment = comment_above("sources")
    assert all(kind in comment for kind, reader in SOURCES.items() if not reader.is_planted)


def test_one_more_file_is_one_more_kind(dummy: Config) -> None:
    check_sources(dummy)
    units = all_units(dummy)
    assert [(unit.kind, unit.name) for unit in units] == [("dummy", f"a.dummy@{units[0].n_bytes}"), ("dummy", "b.dummy@11")]
    root = str(dummy.sources["docs"].path)
    rows = [r.row() for u in units for r in unit_source(u.kind).records(u, root, "text", "doc_id", 10**6)]
    assert [(row["doc_id"], row["text"], row["code"]) for row in rows] == [
        ("0", TEXTS[0], None), ("1", None, "BLANK_TEXT"), ("2", TEXTS[2], None), ("0", None, "INVALID_UTF8"),
    ]  # fmt: skip
    assert list(rows[0]) == [column.split()[0] for column in RECORD_COLUMNS.split(", ")]
    assert [row["origin"].rpartition(":")[2] for row in rows] == ["1", "2", "3", "1"]
    with pytest.raises(SourceError, match=r"source docs: no dummy file \(\.dummy\) under"):
        unit_source("dummy").list_units("docs", str(PACKAGE), 1)


def test_one_more_kind_is_looked_at_and_sized(dummy: Config) -> None:
    source = dummy.sources["docs"]
    sample = sample_source(source, no_spark)  # type: ignore[arg-type]
    assert (sample.files, sample.documents, sample.others) == (2, 4, {"text": 1})
    profile = profile_corpus(sample, "dummy", 10**6)
    assert (profile.text.column, profile.refused) == ("text", {"BLANK_TEXT": 1, "INVALID_UTF8": 1})
    lines = config_text("docs", {"kind": "dummy", "path": source.path}, profile, dummy, "small", Path("runs"), "docs")
    assert "kind: dummy" in lines and "columns:" in lines
    size = corpus_size(dummy, no_spark)  # type: ignore[arg-type]
    assert (size.documents, size.chars) == (2, (len(TEXTS[0]) + len(TEXTS[2])) / 2)


@pytest.mark.parametrize("unit_bytes", [1 << 62, 20_000, 500])
def test_a_sample_of_ranges_stands_for_the_whole_file(unit_bytes: int, tmp_path: Path) -> None:
    """Lines of 70 to 130 bytes; a range of 500 bytes holds four or five of them, or a part of one at its end."""
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(f'{{"text": "{"x" * (60 + i % 60)}"}}\n' for i in range(5000)))
    extent = Extent(unit_bytes=unit_bytes, units=50, records=100, columns=ColumnsConfig())
    sample = SOURCES["jsonl"].sample("docs", SourceConfig(kind="jsonl", path=str(file)), no_spark, extent)  # type: ignore[arg-type]
    assert all(isinstance(row, dict) for row in sample.records), "no half of a line"
    assert sample.documents == pytest.approx(5000, rel=0.05)


def test_nothing_outside_compares_a_kind() -> None:
    """What differs from kind to kind is said by its record."""
    kinds = {kind.value for kind in SourceKind}
    compared = [
        f"{file.relative_to(PACKAGE)}: {ast.unparse(node)}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Compare)
        and "kind" in ast.unparse(node)
        and kinds & {side.value for side in ast.walk(node) if isinstance(side, ast.Constant) and isinstance(side.value, str)}
    ]
    assert compared == []
