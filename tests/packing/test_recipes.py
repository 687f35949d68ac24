"""Recipes over the same corpus: what each packs, from pure plans to real Spark and real Delta."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from entropylong.errors import ConfigError
from entropylong.maintenance.check import reassembled
from entropylong.models.query_model import QueryModel
from entropylong.packing.document_runs import DocumentRun, pack_document_runs
from entropylong.packing.groups import ContextChunk, Dependency, Group
from entropylong.packing.permute import permute
from entropylong.packing.recipes import RECIPES
from entropylong.packing.recipes.base import DocumentRunRecipe, GroupedRecipe
from entropylong.packing.recipes.keywords import keywords, representative
from entropylong.packing.recipes.nearest import _capped, _once
from entropylong.packing.recipes.neighbours import Link, knn, neighbours_wanted, nextlong
from entropylong.packing.recipes.noverify import by_rank
from entropylong.packing.recipes.shared import document_run_tokens, separator_ids, within_budget
from entropylong.packing.sequences import PackedSequence, PackRule, Piece, pack_groups
from entropylong.packing.stage import _pack_document_runs, group_rows, packable
from entropylong.pipeline.runner import Runner
from entropylong.utils.hashing import share_threshold, xxhash64
from tests import tiny
from tests.conftest import MakeConfig, OpenRunner


def rule(recipe: str, length: int = 16384, layout: str = "spread") -> PackRule:
    swap = permute if recipe == "permuted" else None
    return PackRule(length, layout, "shuffle", "none", 1, recipe, (7,), (8,), 9, swap)


def groups(seed: int, roots: int, popular: int) -> list[Group]:
    """Roots of which each has some contexts of its own, and some that many have; of these others have some uses."""
    rng = random.Random(seed)
    ids = {n: np.full(rng.randint(100, 500), 1000 + n, np.int32) for n in range(4 * roots + popular)}
    all_groups = []
    for number in range(roots):
        chunks = [rng.randrange(popular) if rng.random() < 0.2 else popular + 4 * number + n for n in range(rng.randint(1, 4))]
        verified = [ContextChunk(c, ids[c], rng.random(), 0) for c in dict.fromkeys(chunks)]
        capped = tuple(c for c in verified[1:] if c.chunk_id < popular and rng.random() < 0.5)
        contexts = tuple(c for c in verified if c not in capped)
        links = tuple(Dependency(c.chunk_id, 3, c.gain, None) for c in contexts)
        all_groups.append(
            Group(f"r{number}", np.full(rng.randint(256, 900), number + 10, np.int32), contexts, links, capped=capped)
        )
    return all_groups


def content(packed: list[PackedSequence]) -> int:
    return sum(s.end - s.start for q in packed for s in q.segments if s.kind != "pad")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 40), st.sampled_from(["spread", "grouped"]))
def test_permuted_breaks_every_link_and_nothing_else(seed: int, roots: int, layout: str) -> None:
    all_groups = groups(seed, roots, 5)
    plain, other = (pack_groups(all_groups, rule(recipe, 4096, layout)) for recipe in ("verified", "permuted"))
    linked_chunks = {group.root_id: {c.chunk_id for c in (*group.contexts, *group.capped)} for group in all_groups}
    ids = {c.chunk_id: c.ids for group in all_groups for c in group.contexts}
    assert len(plain) == len(other)
    for before, after in zip(plain, other, strict=True):
        held = [s.chunk_id for s in after.segments if s.kind == "context"]
        rooted = [s.root_id for s in after.segments if s.kind == "root"]
        assert rooted == [s.root_id for s in before.segments if s.kind == "root"] and not after.dependencies
        assert len(held) == len(set(held)) and not set(held) & set().union(*(linked_chunks[root] for root in rooted))
        assert len(after.input_ids) == 4096 and content([after]) <= content([before])
        for s in after.segments:
            if s.kind == "context":
                assert after.ids_of(s).tolist() == ids[s.chunk_id][: s.end - s.start].tolist()
    if len(plain) == 1:
        assert not [s for s in other[0].segments if s.kind == "context"], "there is nobody to swap with"


@pytest.mark.parametrize("recipe", ["permuted", "verified"])
def test_permuted_knows_the_links_that_the_cap_took(
    spark: SparkSession, make_config: MakeConfig, tmp_path: Path, recipe: str
) -> None:
    config = make_config(tmp_path, tmp_path, f"pack.recipe={recipe}", "pack.max_chunk_uses=1")
    readings = [{"root_id": root, "chunk_id": chunk, "position": 3, "gain": 0.5, "excess_gain": None, "accepted": True}
             for root, chunk in (("a", 1), ("b", 1), ("a", 2), ("b", 3))]  # fmt: skip
    schema = "root_id STRING, chunk_id BIGINT, position INT, gain DOUBLE, excess_gain DOUBLE, accepted BOOLEAN"
    pairs = [(c["root_id"], c["chunk_id"], "candidate") for c in readings]
    frames = {
        "readings": spark.createDataFrame(readings, schema),
        "pairs": spark.createDataFrame(pairs, "root_id STRING, chunk_id BIGINT, kind STRING"),
        "context_ids": spark.createDataFrame([(c, [c] * 4) for c in (1, 2, 3)], "chunk_id BIGINT, ids ARRAY<INT>"),
        "scored_documents": spark.createDataFrame([("a", [7]), ("b", [8])], "root_id STRING, input_ids ARRAY<INT>"),
    }
    record = RECIPES[recipe]
    assert isinstance(record, GroupedRecipe)
    ctx: Any = SimpleNamespace(config=config)
    rows = {row.root_id: row for row in group_rows(ctx, record, frames).collect()}
    used = [root for root, row in rows.items() if 1 in [c.chunk_id for c in row.contexts]]
    without = {root: [c.chunk_id for c in row.capped] for root, row in rows.items()}
    assert len(used) == 1 and without.pop(used[0]) == [] and list(without.values()) == [[1] if recipe == "permuted" else []]


def test_permuted_has_the_verified_tokens_to_one_percent() -> None:
    all_groups = groups(1, 300, 60)
    plain, other = (pack_groups(all_groups, rule(recipe)) for recipe in ("verified", "permuted"))
    assert 0.99 * content(plain) <= content(other) <= content(plain)


@given(st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=5), max_size=9), st.integers(1, 200))
def test_document_runs_keep_their_order_and_their_tokens(sizes: list[list[int]], room: int) -> None:
    runs = [
        DocumentRun(
            f"s{n}", tuple(Piece("root", f"s{n}", at, np.full(size, 100 * n + at, np.int32)) for at, size in enumerate(each))
        )
        for n, each in enumerate(sizes)
    ]
    cut = [run.cut(room, 1) for run in runs]
    assert all(c.tokens(1) <= room and (c.tokens(1) == min(room, s.tokens(1)) or room - c.tokens(1) <= 1)
               for c, s in zip(cut, runs, strict=True))  # fmt: skip
    packed, other = (pack_document_runs(order, rule("quest", 150)) for order in (runs, runs[::-1]))
    assert [(q.sequence_id, q.input_ids.tolist()) for q in packed] == [(q.sequence_id, q.input_ids.tolist()) for q in other]
    for n, run in enumerate(runs):
        of_run = [i for q in packed for s in q.segments if s.root_id == f"s{n}" for i in q.ids_of(s)]
        assert of_run == [i for piece in run.cut(149, 1).pieces for i in piece.ids]
    orders = {s.root_id: [] for q in packed for s in q.segments if s.kind == "root"}
    for sequence in packed:
        assert len(sequence.input_ids) == 150
        for s in (s for s in sequence.segments if s.kind == "root"):
            orders[s.root_id].append(s.chunk_id)
    assert all(order == list(range(len(order))) for order in orders.values()) and len(orders) == len(runs)


def searcher(vectors: Any, k: int) -> list[list[int]]:
    """All ask for the same chunks, in the same order."""
    return [list(range(k)) for _ in vectors]


def test_nextlong_uses_no_negative_twice_and_puts_the_meta_chunk_first() -> None:
    links = nextlong(np.zeros((3, 4), np.int16), 2, searcher)
    assert [link.own for link in links] == [0, None, None, 1, None, None, 2, None, None]
    assert [link.chunk_id for link in links if link.own is None] == [0, 1, 2, 3, 4, 5]


def test_neighbours_by_the_papers_formula() -> None:
    # T = 131,072, E = 4, S = 8,192 characters in p = 4 meta-chunks of s = 2,048: (786,432 - 8,192) / 8,192 = 95.
    assert neighbours_wanted(131072, 8192, 2048, 4, 2048) == 95
    assert neighbours_wanted(100, 8192, 2048, 4, 2048) == 1, "a long document still has hard negatives"


def test_knn_asks_with_the_mean_of_the_document() -> None:
    queries = []

    def search(vectors: Any, k: int) -> list[list[int]]:
        queries.append(vectors.tolist())
        return [[5, 6, 7][:k]]

    assert knn(np.array([[10, 0], [20, 4]], np.int16), 2, search) == [Link(0, None), Link(None, 5), Link(None, 6)]
    assert queries == [[[15, 2]]]


def test_keywords_are_phrases_that_say_something() -> None:
    text = "The sampling frequency of a low pass filter. The best way to choose a sampling frequency of any signal."
    phrases = keywords(text)
    assert "sampling frequency" in phrases and "best way" not in phrases and "signal" not in phrases
    assert len(phrases) == len(set(phrases))
    assert representative(text, "d", 1) in phrases and representative("the and of", "d", 1) is None
    assert len({representative(text + " Butterworth design method.", f"d{n}", 1) for n in range(20)}) > 1


def test_queries_of_both_kinds_of_model(tiny_lm: Path, tmp_path: Path) -> None:
    """A random model says nothing, but reads and writes: a causal LM by its prompt, a doc2query model the document alone."""
    words = AutoTokenizer.from_pretrained(tiny_lm)
    folder = tmp_path / "doc2query"
    t5 = T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(t5).save_pretrained(folder)
    words.save_pretrained(folder)
    causal, doc2query = QueryModel(tiny_lm), QueryModel(folder)
    texts = ["A filter has a frequency. " * 5, "b" * 9000]
    assert len(causal.predict(texts, "{document} Query:")) == len(doc2query.predict(texts, "unused")) == 2
    assert causal.predict(texts, "{document} Query:") == causal.predict(texts, "{document} Query:")


def test_baselines_have_the_verified_tokens(copied: Path, corpus: Path, tmp_path: Path, open_runner: OpenRunner) -> None:
    more, epsilon = Path(shutil.copytree(corpus, tmp_path / "corpus")), "accept.epsilon=0.05"
    topics = ("spectral window function", "random chunk position")
    rows = [{"doc_id": f"more-{n}", "text": f"of the {topics[n % 2]}, " * 25 + f"and {n}."} for n in range(40)]
    tiny.write_jsonl(more / "part-3.jsonl", rows)
    plain = open_runner(copied, epsilon, source=more)
    plain.run(["ingest", "pack"])
    target = content_of(packed_rows(plain))
    documents = {row.doc_id: row.text for row in plain.state.ok_rows("documents").collect()}
    chunks = {row.chunk_id: row.doc_id for row in plain.state.ok_rows("chunks").collect()}
    for recipe in ("standard", "quest", "knn", "nextlong"):
        other = open_runner(copied, epsilon, f"pack.recipe={recipe}", source=more)
        persisted = other.state.spark.sparkContext._jsc.getPersistentRDDs().size()
        assert [done.step.writes for done in other.run(["pack"]).steps] == ["sequences"]
        assert other.state.spark.sparkContext._jsc.getPersistentRDDs().size() <= persisted + 1, "the readings and nothing else"
        sequences = packed_rows(other)
        assert abs(content_of(sequences) - target) <= 0.01 * target
        assert {q.recipe for q in sequences} == {recipe} and not any(q.dependencies for q in sequences)
        assert reassembled(other.state, other.state.ok_rows("sequences")).wrong == 0
        for sequence in sequences:
            whole = [s for s in sequence.segments if s.kind == "root"]
            contexts = [s for s in sequence.segments if s.kind == "context"]
            assert len({s.chunk_id for s in contexts}) == len(contexts)
            if recipe in ("standard", "quest"):
                assert not contexts and len({s.root_id for s in whole}) == len(whole)
            else:
                assert contexts and whole[0].start < contexts[0].start
                assert not {chunks[s.chunk_id] for s in contexts} & {s.root_id for s in whole}, "never its own chunks"
            if recipe == "quest":
                phrases = [set(keywords(documents[s.root_id])) for s in whole]
                # A sequence may hold two keywords' documents, and the budget's end may cut off one alone.
                assert sum(bool(a & b) for a, b in pairwise(phrases)) >= max(1, len(whole) - 2)


def test_whole_documents_share_no_text_with_an_evaluation_set(copied: Path, tmp_path: Path, open_runner: OpenRunner) -> None:
    exam = " ".join(f"word{n}" for n in range(13))
    file = tiny.write_jsonl(tmp_path / "exam.jsonl", [{"q": exam}])
    runner = open_runner(copied, f"corpus.exclude=[{file}]")
    texts = {f"d{n}": "of the spectral window function, " * 9 + (exam if n == 3 else f"and {n}") for n in range(6)}
    rows = [{"doc_id": doc_id, "text": text, "n_chars": len(text)} for doc_id, text in texts.items()]
    frames = {"documents": runner.state.spark.createDataFrame(rows, "doc_id STRING, text STRING, n_chars INT")}
    for recipe in ("standard", "quest"):
        runs = baseline(recipe).document_runs(runner.state.context, frames, 1000)
        doc_ids = {p.root_id for row in runs.collect() for p in row.pieces}
        assert doc_ids == set(texts) - {"d3"}
    runner.state.context.release()


def test_a_text_stands_once_in_a_document_run_and_the_first_runs_have_the_uses(
    spark: SparkSession, make_config: MakeConfig, tmp_path: Path
) -> None:
    chunks = spark.createDataFrame([(n, n // 2) for n in range(6)], "chunk_id BIGINT, text_hash BIGINT")
    uses = spark.createDataFrame(
        [(s, at, c) for s in "ab" for at, c in ((1, 3), (2, 2), (3, 5))], "document_run STRING, at INT, chunk_id BIGINT"
    )
    once = _once(uses, chunks)
    assert {(r.document_run, r.at, r.chunk_id) for r in once.collect()} == {(s, at, c) for s in "ab" for at, c in ((1, 3), (3, 5))}
    names = [f"s{n}" for n in range(9)]
    many_uses = spark.createDataFrame([(s, 1, c) for s in names for c in range(7)], "document_run STRING, at INT, chunk_id BIGINT")
    config = make_config(tmp_path, tmp_path, "pack.max_chunk_uses=2")
    kept_uses = _capped(SimpleNamespace(config=config), many_uses).collect()  # type: ignore[arg-type]
    first = sorted(names, key=lambda s: xxhash64(config.seed, s))[:2]
    assert {(r.document_run, r.chunk_id) for r in kept_uses} == {(s, c) for s in first for c in range(7)}


def test_noverify_takes_as_many_texts_by_rank_under_the_same_copy_limit(
    spark: SparkSession, make_config: MakeConfig, tmp_path: Path
) -> None:
    accept = make_config(tmp_path, tmp_path, "accept.max_copy_tokens=24").accept
    # (chunk, pair, position, rank, score, copy, accepted): chunks 1 and 2 say the same; 3 is a copy.
    readings = [
        (3, 30, 40, 1, 0.9, 99, False), (1, 10, 40, 2, 0.8, 0, False), (2, 10, 40, 3, 0.8, 0, False), (4, 40, 50, 3, 0.7, 0, False),
        (5, 50, 50, 3, 0.6, 0, False), (7, 70, 60, 4, 0.5, 0, True), (4, 40, 60, 6, 0.4, 0, True),
    ]  # fmt: skip
    names = ("chunk_id", "pair_id", "position", "rank", "score", "copy_len", "accepted")
    rows = [
        dict(zip(names, c, strict=True)) | {"root_id": "r", "kind": "retrieved", "gain": 0.5, "excess_gain": None} for c in readings
    ]
    rows.append(rows[0] | {"root_id": "without", "copy_len": 0})
    schema = (
        "root_id STRING, chunk_id BIGINT, pair_id BIGINT, position INT, kind STRING, rank INT, score FLOAT, copy_len INT, "
        "gain DOUBLE, excess_gain DOUBLE, accepted BOOLEAN"
    )
    links = by_rank(spark.createDataFrame(rows, schema), accept).collect()
    assert {(r.root_id, r.chunk_id, r.position) for r in links} == {("r", 1, 40), ("r", 2, 40), ("r", 4, 50), ("r", 4, 60)}


def test_check_makes_document_runs_anew_from_what_was_packable(copied: Path, open_runner: OpenRunner) -> None:
    """A long document that is held out would stand between two of its keyword, and part them."""
    runner = open_runner(copied, "pack.recipe=quest", "pack.held_out=0.3")
    config, spark = runner.config, runner.state.spark
    names = sorted((f"d{n}" for n in range(60)), key=lambda d: xxhash64(config.seed, d))
    held = [xxhash64(config.seed, "held_out", d) > share_threshold(0.7) for d in names]
    at = next(n for n in range(1, len(names) - 1) if held[n] and not held[n - 1] and not held[n + 1])
    texts = {d: "of the spectral window function, " * (400 if n == 1 else 3) + d for n, d in enumerate(names[at - 1 : at + 2])}
    rows = [{"doc_id": doc_id, "text": text, "n_chars": len(text)} for doc_id, text in texts.items()]
    empty = spark.createDataFrame([], "root_id STRING, doc_id STRING, chunk_id BIGINT")
    frames = dict.fromkeys(("chunks", "scored_documents", "readings", "pairs"), empty)
    frames["documents"] = spark.createDataFrame(rows, "doc_id STRING, text STRING, n_chars INT")
    ctx = runner.state.context
    quest = baseline("quest")
    runs = quest.document_runs(ctx, packable(config, frames), 0)
    ((tokens,),) = runs.select(document_run_tokens(ctx)).collect()
    sequences = _pack_document_runs(ctx, quest, within_budget(ctx, runs, tokens))
    state = SimpleNamespace(config=config, context=ctx, frames=lambda step: frames, readings=lambda: frames["readings"])
    result = reassembled(state, sequences)  # type: ignore[arg-type]
    assert (result.looked_at, result.wrong) == (2, 0) and not ctx.cached


def test_a_budget_is_spent_in_the_order_of_places(finished_runner: Runner) -> None:
    ctx = finished_runner.state.context
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 60, 300).tolist()
    # Also two at one place, and one at the end of all places.
    places = [*rng.random(297).tolist(), 0.25, 0.25, 1.0]
    named = [(place, f"s{n}", size) for n, (place, size) in enumerate(zip(places, sizes, strict=True))]
    rows = [(name, place, [("root", name, None, [7] * size)]) for place, name, size in named]
    ddl = "document_run STRING, place DOUBLE, pieces ARRAY<STRUCT<kind STRING, root_id STRING, chunk_id BIGINT, ids ARRAY<INT>>>"
    separator = len(separator_ids(ctx))
    budget, left, expected = 2000, 2000, {}
    for _, name, size in sorted(named):
        if left > 0:
            expected[name] = min(size + separator, left)
        left -= size + separator
    try:
        taken = within_budget(ctx, ctx.spark.createDataFrame(rows, ddl), budget).collect()
        assert {row.document_run: row.room for row in taken} == expected and left < 0
        with pytest.raises(ConfigError, match="give more corpus text"):
            within_budget(ctx, ctx.spark.createDataFrame(rows[:3], ddl), budget)
    finally:
        ctx.release()


def baseline(name: str) -> DocumentRunRecipe:
    record = RECIPES[name]
    assert isinstance(record, DocumentRunRecipe)
    return record


def packed_rows(runner: Any) -> list[Any]:
    return list(runner.state.ok_rows("sequences").collect())


def content_of(rows: list[Any]) -> int:
    return sum(s.end - s.start for q in rows for s in q.segments if s.kind != "pad")


def test_a_baseline_that_the_corpus_cannot_fill_says_so(copied: Path, open_runner: OpenRunner) -> None:
    with pytest.raises(ConfigError, match=r"nextlong: gives [\d,]+ tokens from this corpus, the verified arm has"):
        open_runner(copied, "pack.recipe=nextlong", "pack.length=32768").run(["pack"])
