"""RULER: each task's answer is where it should be, rows fill their length, scores are the benchmark's; no model is needed."""

from __future__ import annotations

import json
import random
import re
from collections import Counter as Tally
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from entropylong.errors import EvaluationError
from entropylong.evaluation.ruler.material import Material, keys, prompts
from entropylong.evaluation.ruler.parts import Counter, prepare
from entropylong.evaluation.ruler.prepare import LENGTHS, Row, rows_of, runnable
from entropylong.evaluation.ruler.run import _metrics
from entropylong.evaluation.ruler.score import TaskScore, cleaned, row_score, task_scores
from entropylong.evaluation.ruler.tasks import _DEPTHS, TASKS, Setting, _chain, _example_lines

Count = Callable[[str], int]
SENTENCE = "Essay {n} has a sentence of its own, number {n}."


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Small files in the official formats."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "essays.json").write_text(json.dumps({"text": "\n\n".join(SENTENCE.format(n=n) for n in range(60))}))
    articles = [
        {"title": f"T{a}", "paragraphs": [
            {"context": f"Paragraph {a}.{p} is about {a * 10 + p} things. " * 12, "qas": [
                {"question": f"How many things, {a}.{p}?", "is_impossible": False,
                 "answers": [{"text": f"{a * 10 + p} things"}, {"text": f"{a * 10 + p} things"}]},
                {"question": "Unanswerable?", "is_impossible": True, "answers": []}]}
            for p in range(4)]}
        for a in range(20)
    ]  # fmt: skip
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    items = [
        {"question": f"Who wrote book {n}?", "answer": f"Writer {n}",
         "context": [[f"Title {n}.{k}", [f"Book {n} was written by Writer {n}." if k == 3 else "Filler. ", "More."] * 5]
                     for k in range(10)]}
        for n in range(12)
    ]  # fmt: skip
    (folder / "hotpot.json").write_text(json.dumps(items))
    return Material(essays=folder / "essays.json", squad=folder / "squad.json", hotpotqa=folder / "hotpot.json")


@pytest.fixture(scope="module")
def count(real_lm: Path) -> Count:
    """Tokens of the real model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(real_lm)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@pytest.mark.parametrize("length", [2048, 4096])
@pytest.mark.parametrize("name", TASKS)
def test_rows_hold_their_answers_within_the_length(name: str, length: int, material: Material, count: Count) -> None:
    """Counted, filled, answered: an oracle scores 100, a constant 0."""
    task = TASKS[name]
    rows = rows_of(task, length, 3, material, count)
    for row in rows:
        assert row.tokens == count(row.text + row.prefix) <= length - task.new_tokens
        assert task.prompt == "qa" or row.tokens > length - task.new_tokens - 3 * _step_tokens(row, count), "filled, but for a step"
        _CHECKS[task.prompt](row)
    answers = {row.prompt.key: " and ".join(row.references).upper() + "\n" for row in rows}
    (oracle,) = task_scores(rows, answers)
    (constant,) = task_scores(rows, dict.fromkeys(answers, "I do not know."))
    assert (
        oracle.score == 100.0
        and constant.score == 0.0
        and oracle.rows == 3
        and 40 < oracle.interval[0] < 50
        and oracle.interval[1] == 100.0
    )
    again = rows_of(task, length, 2, material, count)
    assert again == rows[:2], "a row does not depend on how many were asked for"
    assert rows_of(task, length, 1, material, count, seed=7)[0].text != rows[0].text


def _step_tokens(row: Row, count: Count) -> int:
    """Tokens of one step of a task's size: a row that overruns drops so many, and is drawn again."""
    task = TASKS[row.task]
    step = task.step_at(row.length) or row.length // 32
    if task.needs == "essays":
        return count(" ".join(row.text.split()[:step]))
    noise = prompts()["noise"]
    line = {"cwe": "999. unremarkable " * 3, "fwe": "abcdef ", "vt": noise}.get(task.prompt) or row.text.split("\n")[-3] + "\n"
    return step * count(line)


def _niah(row: Row) -> None:
    many = row.task in ("niah_multivalue", "niah_multiquery")
    assert len(row.references) == len(set(row.references)) == (4 if many else 1)
    kind = "uuids" if row.references[0].count("-") == 4 else "numbers"
    query = row.prefix.partition(" for ")[2].rpartition(" mentioned")[0]
    places = []
    for number, value in enumerate(row.references):
        key = re.split(r", and |, ", query)[number if row.task == "niah_multiquery" else 0]
        needle = f"One of the special magic {kind} for {key} is: {value}."
        assert row.text.count(needle) == 1
        places.append(row.text.index(needle))
    assert row.text.startswith(f"Some special magic {kind} are hidden" if many else f"A special magic {kind[:-1]} is hidden")
    assert row.prefix.endswith("mentioned in the provided text are" if many else "mentioned in the provided text is")
    context = row.text.partition("\n")[2].rpartition("\n")[0]
    if TASKS[row.task].needs:
        needles = context.count("One of the special magic")
        assert needles == (4 if many or row.task == "niah_multikey_1" else 1)
        plain = [
            part for part in re.split(r"(?<=[.!?])\s+", re.sub(r"One of the special magic [^:]*: [\w-]+\.\s?", "", context)) if part
        ]
        allowed = {int(len(plain) * depth / 100) for depth in _DEPTHS}
        before = re.split(r"One of the special magic [^:]*: [\w-]+\.", context)
        ends = 0
        for part in before[:-1]:
            ends += len(re.findall(r"[.!?](?=\s|$)", part))
            assert min(abs(ends - place) for place in allowed) <= 1, "at a sentence's end, at a depth of the benchmark"
    else:
        lines = context.split("\n")
        at = [n for n, line in enumerate(lines) if any(f": {value}." in line for value in row.references)]
        assert len(at) == 1 and at[0] < len(lines) - 1, "a line of its own, never the last"


def _vt(row: Row) -> None:
    demonstration, _, question = row.text.rpartition("Memorize and track")
    assert demonstration.count("Memorize and track") == 1 and demonstration.endswith("\n\n") and row.prefix.endswith("they are: ")
    value = re.search(r"assigned the value (\d{5}) in the text above", question)
    assert value is not None and f"VAR {row.references[0]} = {value[1]}\n" in question
    for old, new in pairwise(row.references):
        assert f"VAR {new} = VAR {old} \n" in question and question.index(f"VAR {old} =") < question.index(f"VAR {new} =")
    assert len(set(row.references)) == 5 and all(re.fullmatch("[A-Z]{5}", name) for name in row.references)
    example = re.search(r"they are:  ((?:[A-Z]{3} ?){5})\n", demonstration)
    assert example is not None, "two spaces before the example's answer"


def _cwe(row: Row) -> None:
    example, _, question = row.text.rpartition("Below is a numbered list")
    listed = re.findall(r"\d+\. (.*?)(?= \d+\. |\n)", question)
    counts = Tally(listed)
    often, seldom = (30, 3) if row.length >= 4096 else (6, 1)
    assert {counts[word] for word in row.references} == {often} and len(row.references) == 10
    assert {n for word, n in counts.items() if word not in row.references} == {seldom}
    solved = re.search(r"in the list are: (1\. .*10\. [^\n]*)\n", example)
    assert solved is not None and len(re.findall(r"\d+\. ", solved[1])) == 10


def _fwe(row: Row) -> None:
    words = row.text.partition("coded words. ")[2].rpartition("\nQuestion")[0].split(" ")
    ranked = Tally(words).most_common(4)
    assert ranked[0][0] == "..." and [word for word, _ in ranked[1:]] == list(row.references)
    ratio = ranked[0][1] / ranked[1][1]
    assert ratio == pytest.approx(4, rel=0.05), "counts fall with the square of the rank"


def _qa(row: Row) -> None:
    documents = re.split(r"Document (\d+):\n", row.text)
    assert [int(n) for n in documents[1::2]] == list(range(1, len(documents[1::2]) + 1))
    assert any(row.references[0] in text for text in documents[2::2])
    if row.task == "qa_2":
        book = re.search(r"book (\d+)\?", row.text)
        assert book is not None and all(f"Title {book[1]}.{k}\n" in row.text for k in range(10)), "all paragraphs of its item stay"


_CHECKS = {"niah": _niah, "vt": _vt, "cwe": _cwe, "fwe": _fwe, "qa": _qa}


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multikey_3", "vt", "cwe", "fwe"])
def test_long_rows_are_filled_too(name: str, count: Count) -> None:
    """However much of a small sample is the same at any size."""
    (row,) = rows_of(TASKS[name], 16384, 1, Material(), count)
    assert 16384 * 0.93 < row.tokens + TASKS[name].new_tokens <= 16384


def test_prompts_are_made_once_for_a_tokenizer(material: Material, count: Count, tmp_path: Path) -> None:
    """A part at a time, read back where nothing that it depends on has changed; each thing that has makes another file."""
    counted = 0

    def counting(text: str) -> int:
        nonlocal counted
        counted += 1
        return count(text)

    calls: list[tuple[int, int]] = []
    tasks, counter = [TASKS["fwe"], TASKS["niah_single_2"]], Counter(counting, "t1")
    parts = prepare(tasks, [1024, 2048], 2, 42, material, counter, tmp_path, lambda *at: calls.append(at))
    assert calls[0] == (0, 8) and calls[-1] == (8, 8) and calls == sorted(calls)
    assert parts[1].rows() == rows_of(TASKS["niah_single_2"], 1024, 2, material, count)
    assert parts[1].longest.tokens == max(row.tokens for row in parts[1].rows()) and parts[1].keys[1] == "niah_single_2/1024/1"
    calls.clear()
    with ThreadPoolExecutor(2) as pool:  # two models that are judged beside each other wait for one making
        both = list(pool.map(lambda _: prepare(tasks[:1], [512], 2, 42, material, counter, tmp_path), range(2)))
    alone = prepare(tasks[:1], [512], 2, 42, material, Counter(counting, "alone"), tmp_path)
    assert both[0] == both[1] and alone[0].fingerprint == both[0][0].fingerprint
    before = counted
    again = prepare(tasks, [1024, 2048], 2, 42, material, counter, tmp_path, lambda *at: calls.append(at))
    assert again == parts and counted == before and calls == [(8, 8)]
    own = tmp_path / "essays.txt"
    own.write_text("Another essay has another sentence. " * 99)
    for files, by in ((Material(essays=own), "t1"), (material, "t2")):
        other = prepare(tasks[1:], [1024], 2, 42, files, Counter(counting, by), tmp_path)
        assert other[0].path != parts[1].path and counted > before
        before = counted
    parts[0].path.write_text('{"task": "fwe"}\n')
    with pytest.raises(EvaluationError, match="is no question; remove it, and it is made again"):
        parts[0].rows()


def test_the_papers_average_is_of_all_that_it_averages() -> None:
    """Five lengths, thirteen tasks; of fewer there is none, whatever the name would say."""
    scores = [TaskScore(task, length, 50.0, (40.0, 60.0), 4, 0) for length in LENGTHS for task in TASKS]
    assert _metrics(scores)["ruler.average_8k_128k"] == 50.0
    for fewer in (scores[1:], scores[13:], [s for s in scores if s.task != "vt"]):
        assert not any("average" in name for name in _metrics(fewer))


def test_the_examples_size_is_found_line_by_line(count: Count) -> None:
    """The largest with which it is within 500 tokens, its answer's 30 among them; not the next multiple of a step."""
    setting = Setting(4096, 42, Material(), count)
    lines = _example_lines(setting)

    def size(lines: int) -> int:
        built = _chain(lines, 3, setting, random.Random(42), random.Random(42))
        return count(built.text + built.prefix) + 30

    assert size(lines) <= 500 < size(lines + 1) and lines % 5


def test_questions_drop_steps_down_to_their_own_documents(count: Count, tmp_path: Path) -> None:
    """A row that is much longer than the one that the size was found on."""
    paragraphs = []
    for n in range(12):
        qa = {"question": "q", "is_impossible": False, "answers": [{"text": f"Short {n}"}]}
        paragraphs.append({"context": f"Short {n}. " * 10, "qas": [qa]})
    paragraphs[1]["context"] = "Short 1, and long. " * 230
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    rows = rows_of(TASKS["qa_1"], 2048, 2, Material(squad=tmp_path / "squad.json"), count)
    assert "Short 1, and long." in rows[1].text and rows[1].tokens <= 2048 - 32


def test_shuffles_have_one_order_in_every_row(material: Material, count: Count) -> None:
    """As in the public generator: the place of the common words, the sequence of ranks."""
    sequences = []
    for row in rows_of(TASKS["cwe"], 2048, 2, material, count):
        listed = re.findall(r"\d+\. (.*?)(?= \d+\. |\n)", row.text.rpartition("Below is a numbered list")[2])
        sequences.append([row.references.index(word) if word in row.references else -1 for word in listed])
    assert sequences[0] == sequences[1]


def test_the_prompts_to_the_letter() -> None:
    assert prompts()["niah"]["template"].format(kind="numbers", context="C", query="k") == (
        "Some special magic numbers are hidden within the following text. Make sure to memorize it. I will quiz you about the "
        "numbers afterwards.\nC\nWhat are all the special magic numbers for k mentioned in the provided text?"
    )
    adjectives, nouns = keys()
    assert (len(adjectives), len(nouns)) == (910, 6782), "of 912 with repeats; another wonderwords asks other questions"
    assert len(Material().common_words) == 8166


@pytest.mark.parametrize(
    ("task", "references", "prediction", "score"),
    [
        ("niah_multivalue", ("11", "22", "33", "44"), "11, 22 and 44", 0.75),
        ("vt", ("ABCDE", "FGHIJ"), "abcde", 0.5),
        ("qa_1", ("Paris", "the city"), "It is paris.", 1.0),
        ("qa_1", ("Paris",), "", 0.0),
        ("niah_single_1", ("1234567",), "\x00 1234567\x1f", 1.0),
        ("cwe", ("straße",), "STRASSE", 0.0),
    ],
)
def test_scores_by_hand(task: str, references: tuple[str, ...], prediction: str, score: float) -> None:
    assert row_score(Row(task, 8, 0, 1, "", "", references), prediction) == score


def test_predictions_are_cleaned_as_the_benchmark_does() -> None:
    assert cleaned(" \x00a\tb\x1f ") == "a\nb"


def test_what_is_missing_is_named(material: Material, count: Count, tmp_path: Path) -> None:
    tasks, without = runnable([], Material())
    assert [task.name for task in tasks] == ["niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe"]
    assert len(without) == 7 and runnable([], material)[1] == []
    with pytest.raises(EvaluationError, match="no such task: niah; there are niah_single_1"):
        runnable(["niah"], material)
    with pytest.raises(EvaluationError, match=r"qa_1 needs evaluate\.squad=FILE: SQuAD 2\.0 dev set"):
        runnable(["qa_1"], Material())
    with pytest.raises(EvaluationError, match="its smallest question has more than 300 tokens"):
        rows_of(TASKS["vt"], 300, 1, material, count)
    for name, text, message in (
        (
            "squad",
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": []}]}]}]}',
            "another file or version",
        ),
        ("squad", '{"data": []}', "holds nothing"),
        ("hotpotqa", "[1]", "another file or version"),
        ("hotpotqa", "{", "another file or version"),
    ):
        (tmp_path / "file.json").write_text(text)
        with pytest.raises(EvaluationError, match=message):
            Material(**{name: tmp_path / "file.json"}).reading(name)
    with pytest.raises(EvaluationError, match=r"evaluate\.essays: .*cannot be read; it should be Paul Graham"):
        Material(essays=tmp_path / "none").essay_words()
    with pytest.raises(EvaluationError, match=r"9,000 distinct words, 8,166 are at hand; give evaluate\.words=FILE"):
        from entropylong.evaluation.ruler.tasks import _counted

        _counted(Setting(131072, 42, material, count), 9000, 30, 3, random.Random(0))
