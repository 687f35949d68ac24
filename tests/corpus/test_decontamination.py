"""Decontamination: 13-grams against a slow count by sets, files of every form, and a tiny corpus with planted text."""

from __future__ import annotations

import gzip
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entropylong.config import Config
from entropylong.corpus.decontamination import GRAM, Grams, Shared, gram_hashes, words_of
from entropylong.corpus.exclusion import open_excluded, prepare_excluded
from entropylong.entropy.scoring import Refusal, score_texts
from entropylong.errors import ExcludedFileError, QuarantineExceededError, SourceError
from entropylong.maintenance.quarantine import quarantine_rows, retry_rows
from entropylong.models.causal_lm import CausalLM
from entropylong.pipeline.steps import step_writing
from entropylong.storage.array_files import MANIFEST
from entropylong.utils.hashing import file_sha256
from entropylong.utils.isolation import refused
from tests import tiny
from tests.conftest import MakeConfig, OpenRunner, rows_of

TEXT = " ".join(f"word{n}" for n in range(40))
texts = st.lists(st.sampled_from(["ab", "cd", "E", "é", "7", "Ü"]), max_size=40).map(" ".join)


def slow_grams(text: str) -> list[tuple[str, ...]]:
    """Character by character, without hashes: of scripts with spaces."""
    plain = unicodedata.normalize("NFKC", text).lower()
    words = "".join(c if c.isalnum() else " " for c in plain).split()
    return [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]


@given(st.lists(texts, max_size=4), texts)
def test_the_same_grams_as_by_sets(sets: list[str], text: str) -> None:
    owner = {gram: n for n in reversed(range(len(sets))) for gram in slow_grams(sets[n])}
    grams = Grams.of((str(n), [sets[n]]) for n in range(len(sets)))
    assert len(grams.hashes) == len(owner) and (np.diff(grams.hashes.astype(object)) > 0).all()
    matches = [g in owner for g in slow_grams(text)]
    assert (grams.places(gram_hashes(text)) >= 0).tolist() == matches
    shared = grams.shared(text)
    if not any(matches):
        assert shared is None
    else:
        first = slow_grams(text)[matches.index(True)]
        assert shared is not None and (shared.name, shared.words) == (str(owner[first]), " ".join(first))


@given(st.text(max_size=60))
def test_any_text_has_words(text: str) -> None:
    assert all(word and word == word.lower() for word in words_of(text.lower()))
    assert len(gram_hashes(text)) == max(0, len(words_of(text)) - GRAM + 1)


def test_twelve_words_match_nothing_and_thirteen_do() -> None:
    grams = Grams.of([("short", ["Paris", TEXT[: TEXT.index(" word12")]]), ("long", [TEXT[TEXT.index("word20") :]])])
    words = TEXT.split()
    assert set(grams.owners.tolist()) == {1} and grams.shared(" ".join(words[:13])) is None
    assert grams.shared(" ".join([*words[:5], *words[25:37]])) is None
    shared = grams.shared("Before. " + " ".join(words[25:38]) + " after")
    assert shared is not None and str(shared) == f"13 words stand in long too: {' '.join(words[25:38])}"


def test_normalisation() -> None:
    text = "Don't ROUND-trip: ﬁne Ｆｕｌｌ x_y 3.5 Ünï"
    assert " ".join(words_of(text)) == "don t round trip fine full x y 3 5 ünï"
    assert words_of(unicodedata.normalize("NFD", "Café")) == ["café"]
    assert words_of("GPU很好 カナ") == ["gpu", "很", "好", "カ", "ナ"]
    assert Grams.of([("a", [TEXT])]).shared(f"**{TEXT.upper().replace(' ', ',' + chr(10))}**")


def test_grams_do_not_cross_texts_and_order_counts() -> None:
    words = TEXT.split()
    assert not len(Grams.of([("a", [" ".join(words[:12]), " ".join(words[12:20])])]).hashes)
    assert Grams.of([("a", [TEXT])]).shared(" ".join([words[1], words[0], *words[2:13]])) is None


def _excluding(make_config: MakeConfig, tmp_path: Path, *paths: Path) -> Config:
    return make_config(tmp_path / "workspace", tmp_path, f"corpus.exclude=[{', '.join(map(str, paths))}]")


def test_files_of_every_form(make_config: MakeConfig, tmp_path: Path) -> None:
    records = [{"question": {"parts": ["no", TEXT]}, "n": 5}, {"answer": f"other {TEXT}"}]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    (tmp_path / "c.jsonl").write_text(json.dumps(records[1]) + "\n\n" + json.dumps(records[0]))
    one, two, three = (prepare_excluded(_excluding(make_config, tmp_path, tmp_path / n)) for n in ("set", "b.jsonl.gz", "c.jsonl"))
    assert one and two and three and one.content == two.content == three.content and one.directory != two.directory
    grams, slow = open_excluded(one), {g for text in (TEXT, f"other {TEXT}") for g in slow_grams(text)}
    assert grams is not None and grams.names == ("a.json",) and len(grams.hashes) == len(slow)
    assert open_excluded(prepare_excluded(_excluding(make_config, tmp_path))) is None
    (tmp_path / "c.jsonl").write_text(json.dumps(records[1]))
    again = prepare_excluded(_excluding(make_config, tmp_path, tmp_path / "c.jsonl"))
    assert again is not None and again.content == three.content, "the second record has no gram of its own"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "no such file or directory"),
        ("empty.jsonl", "", "no text of 13 words"),
        ("short.json", '[{"answer": "Paris"}]', "no text of 13 words"),
        ("broken.jsonl", '{"a": "b"}\n{"a": ', "record 2 is not JSON"),
    ],
)
def test_sets_that_cannot_be_read(name: str, content: str | None, message: str, make_config: MakeConfig, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    (tmp_path / "good.json").write_text(json.dumps(TEXT))
    with pytest.raises(SourceError, match=message) as caught:
        prepare_excluded(_excluding(make_config, tmp_path, tmp_path / "good.json", tmp_path / name))
    assert name in str(caught.value) and "corpus.exclude" in str(caught.value) and "\n" not in str(caught.value)


def _cut(folder: Path) -> None:
    raw = (folder / "hashes.npy").read_bytes()
    (folder / "hashes.npy").write_bytes(raw[: len(raw) // 2])


def _other_numbers(folder: Path) -> None:
    np.save(folder / "owners.npy", np.zeros(3))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][1]["sha256"] = file_sha256(folder / "owners.npy")
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "hashes.npy: does not match its manifest"),
        (_other_numbers, "owners.npy: must hold 28 numbers of type uint32"),
        (lambda folder: (folder / "owners.npy").unlink(), "owners.npy: is gone"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "no readable manifest.json"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": [{'), "no readable manifest.json"),
    ],
)
def test_a_damaged_set_says_what_to_do(
    damage: Callable[[Path], None], message: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    """It has nothing to do with the index; once the folder that it names is removed, the same command makes it anew."""
    (tmp_path / "set.json").write_text(json.dumps(TEXT))
    # No copy of an earlier test's: equal sets are one.
    exclude, cache = f"corpus.exclude=[{tmp_path / 'set.json'}]", f"node_cache={tmp_path / 'node'}"
    config = make_config(tmp_path / "workspace", tmp_path, exclude, cache)
    excluded = prepare_excluded(config)
    assert excluded is not None
    damage(Path(excluded.directory))
    with pytest.raises(ExcludedFileError, match=message) as caught:
        open_excluded(prepare_excluded(config))
    assert "index" not in str(caught.value) and str(caught.value).endswith("and run the same command again")
    shutil.rmtree(str(caught.value).partition("; remove ")[2].partition(" and run ")[0])
    shutil.rmtree(excluded.directory, ignore_errors=True)
    grams = open_excluded(prepare_excluded(config))
    assert grams is not None and len(grams.hashes) == 28


def test_a_root_is_judged_whole(tiny_lm: Path) -> None:
    model, text = CausalLM(tiny_lm, document_start_id=0), "The function returns the filter. " * 9 + TEXT
    judged_texts: list[str] = []

    def shares(text: str) -> Shared | None:
        judged_texts.append(text)
        return Grams.of([("exams", [TEXT])]).shared(text)

    for long in ("truncate", "split"):
        results = score_texts(model, [("a", text)], min_tokens=1, max_tokens=20, long=long, batch_tokens=64, shares_with=shares)
        ((root, refusal),) = results
        assert root == "a" and isinstance(refusal, Refusal) and refusal.detail.startswith("13 words stand in exams too: word0 ")
    assert judged_texts == [text, text]


def test_planted_text_is_in_quarantine_and_nothing_else(copied: Path, open_runner: OpenRunner, tmp_path: Path) -> None:
    planted = " ".join(str(tiny.documents(12)[2]["text"]).split("\n")[-1].split()[3:20])
    exams = tiny.write_jsonl(tmp_path / "exams.jsonl", [{"q": {"text": planted.upper()}}])
    plain = open_runner(copied)
    runner = open_runner(copied, f"corpus.exclude=[{exams}]", "quarantine.max_rate=0.5")
    assert [step.step.writes for step in runner.run(["ingest", "chunk", "score"]).steps] == ["chunks", "scored_documents"]
    columns = ("doc_id", "ordinal", "text")
    gone = set(rows_of(plain, "chunks", columns)) - set(rows_of(runner, "chunks", columns))
    ((doc_id, _, text),) = gone
    assert doc_id == "doc-0002" and set(slow_grams(planted)) & set(slow_grams(str(text)))
    detail = f"13 words stand in exams.jsonl too: {' '.join(slow_grams(planted)[0])}"
    keys = {"chunks": {"doc_id": "doc-0002"}, "scored_documents": {"root_id": "doc-0002", "doc_id": "doc-0002"}}
    for row in (rows := quarantine_rows(runner.state, 10)):
        assert refused(row["code"], row["detail"]) == refused("CONTAMINATED", detail)
        assert row["key"].items() >= keys[row["table"]].items()
    assert [row["table"] for row in rows] == ["chunks", "scored_documents"]
    assert {(r, c) for r, _, c in rows_of(runner, "chunks", ("doc_id", "ordinal", "code"))} >= {("doc-0002", "CONTAMINATED")}
    assert len(rows_of(runner, "chunks", columns)) == len(rows_of(plain, "chunks", columns)), "an error row in its place"
    codes = [(f"doc-{n:04}", "CONTAMINATED" if n == 2 else None) for n in range(12)]
    assert rows_of(runner, "scored_documents", ("root_id", "code")) == codes
    assert retry_rows(runner.state, ["chunk", "score"]) == {}, "by rule: it would be refused again"
    config = plain.state.artifact(step_writing("chunks"))
    assert config is not None and "corpus.exclude" not in config.config, "an empty list is in no fingerprint"
    moved = exams.rename(tmp_path / "elsewhere.jsonl")
    same = open_runner(copied, f"corpus.exclude=[{moved}]", "quarantine.max_rate=0")
    assert same.state.fingerprint("chunks") == runner.state.fingerprint("chunks") != plain.state.fingerprint("chunks")
    assert same.state.fingerprint("documents") == plain.state.fingerprint("documents")
    with pytest.raises(QuarantineExceededError, match=r"1 CONTAMINATED.*share text with a set of corpus\.exclude"):
        same.run(["chunk"])
