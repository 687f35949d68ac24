"""LongBench-v2: its prompt to the letter, both ends of a text that is too long, its reading of answers, and its splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from entropylong.errors import EvaluationError
from entropylong.evaluation.longbench import MAX_LEN, PUBLISHED, Item, extract, prompt_of, prompts, read_items, report, truncated

PROMPT = """Please read the following text and answer the question below.

<text>
A long text.
With a second line.
</text>

What is the correct answer to this question: Which one?
Choices:
(A) first
(B) second
(C) third
(D) fourth

Format your response as follows: "The correct answer is (insert answer here)"."""
# Right answers and questions by split, as the paper's scores have them.
COUNTS = {"Overall": (139, 503), "Easy": (49, 192), "Hard": (90, 311), "Short": (54, 180), "Medium": (51, 215), "Long": (34, 108)}


def row(key: str = "66f36490821e116aacb2cc22", **changes: Any) -> dict[str, Any]:
    """An object of the official file, white space around its texts."""
    return {
        "_id": key, "domain": "Single-Document QA", "sub_domain": "Financial", "difficulty": "easy", "length": "short",
        "question": " Which one?\n", "choice_A": "first ", "choice_B": "second", "choice_C": "\tthird", "choice_D": "fourth",
        "answer": "D", "context": "\n\nA long text.\nWith a second line.\n",
    } | changes  # fmt: skip


def items_of(folder: Path, *rows: Any) -> list[Item]:
    """What is read from a file of these objects."""
    file = folder / "data.json"
    file.write_text(json.dumps(rows))
    return read_items(file)


@pytest.fixture
def tokenizer(tiny_lm: Path) -> Any:
    """A real one that, as Llama's, puts a token of its own before each text."""
    encoder = AutoTokenizer.from_pretrained(tiny_lm)
    start = encoder.bos_token
    encoder.backend_tokenizer.post_processor = TemplateProcessing(f"{start} $A", special_tokens=[(start, encoder.bos_token_id)])
    return encoder


def test_the_prompt_is_the_public_one_to_the_letter(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path, row(retrieved_context=[]))
    assert prompt_of(item) == PROMPT
    assert (item.key, item.answer, item.sub_domain) == ("66f36490821e116aacb2cc22", "D", "Financial")
    (prompt,) = prompts([item], None)
    assert (prompt.key, prompt.text, prompt.prefix, prompt.new_tokens) == (item.key, PROMPT, "", 128)


def test_marks_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    """A mark inside a field is replaced if its turn is still to come, and stays if it has passed."""
    (item,) = items_of(
        tmp_path, row(context="costs $Q$ or {x} \\1", question="$DOC$ $C_B$?", choice_B="B $C_A$ $C_D$", choice_D="$Q$")
    )
    text = prompt_of(item)
    assert "<text>\ncosts $DOC$ B $C_A$ $Q$? or {x} \\1\n</text>" in text
    assert "question: $DOC$ B $C_A$ $Q$?\n" in text
    assert "(B) B $C_A$ $Q$\n" in text and "(D) $Q$\n" in text


@pytest.mark.parametrize(("max_len", "first", "last"), [(100, 50, 50), (101, 50, 51), (1, 0, 1), (2, 1, 1)])
def test_truncation_keeps_both_ends(tmp_path: Path, tokenizer: Any, max_len: int, first: int, last: int) -> None:
    """The tokenizer's own token is one of the first half and is not decoded; the odd token is at the end."""
    (item,) = items_of(tmp_path, row(context="".join(chr(33 + n % 90) for n in range(2000))))
    whole = prompt_of(item)
    ids = tokenizer(whole)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and len(ids) > 1000
    (prompt,) = prompts([item], tokenizer, max_len)
    begin, end = tokenizer.decode(ids[1 : max(first, 1)]), tokenizer.decode(ids[-last:])
    assert prompt.text == begin + end == truncated(whole, tokenizer, max_len)
    assert whole.startswith(begin) and whole.endswith(end)


def test_what_fits_is_left_alone(tmp_path: Path, tokenizer: Any) -> None:
    """Special tokens count; those written in a text stay unless it is cut."""
    text = "A<|pad|>B" + " filter" * 20
    size = len(tokenizer(text)["input_ids"])
    assert truncated(text, tokenizer, size) == text
    assert truncated(text, tokenizer, size - 1).startswith("AB")
    (item,) = items_of(tmp_path, row())
    assert prompts([item], tokenizer)[0].text == PROMPT and MAX_LEN == 120_000


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The correct answer is (B).", "B"),
        ("  \n**The correct answer is (C)**\n", "C"),
        ("The correct answer is **(D)** since", "D"),
        ("The correct answer is *A*", "A"),
        ("The correct answer is D", "D"),
        ("The correct answer is A, or rather: The correct answer is (B)", "B"),
        ("The correct answer is (A). No: The correct answer is (B)", "A"),
        ("The correct answer is A. No: The correct answer is B", "A"),
        ("The correct answer is Because", "B"),
        ("The correct answer is (insert answer here)", None),
        ("The correct answer is (E)", None),
        ("The correct answer is (b)", None),
        ("the correct answer is (B)", None),
        ("The correct answer is: (B)", None),
        ("The correct answer is\n(B)", None),
        ("(B)", None),
        ("I do not know.", None),
        (" \n", None),
        ("", None),
    ],
)
def test_answers_are_read_as_the_benchmark_does(response: str, letter: str | None) -> None:
    assert extract(response) == letter


def test_the_published_scores_follow_from_their_counts(tmp_path: Path) -> None:
    """503 questions with the benchmark's splits, 139 of them right: the report gives the paper's scores."""
    right = list(zip(["easy"] * 49 + ["hard"] * 90, ["short"] * 54 + ["medium"] * 51 + ["long"] * 34, strict=True))
    rest = list(zip(["easy"] * 143 + ["hard"] * 221, ["short"] * 126 + ["medium"] * 164 + ["long"] * 74, strict=True))
    kinds = enumerate(right + rest)
    items = items_of(tmp_path, *(row(f"q{n}", difficulty=difficulty, length=length) for n, (difficulty, length) in kinds))
    # Of those that are not right a third say another letter, a third say nothing, a third were never answered.
    answers = {f"q{n}": "The correct answer is (D)" if n < 139 else ["The correct answer is (A)", ""][n % 3] for n in range(503)
               if n < 139 or n % 3 < 2}  # fmt: skip
    rows = report(items, answers)
    assert {r["split"]: (r["right"], r["total"]) for r in rows} == COUNTS
    assert {r["split"]: r["score"] for r in rows} == {r["split"]: r["published"] for r in rows} == PUBLISHED
    assert {split: round(100 * x / n, 1) for split, (x, n) in COUNTS.items()} == PUBLISHED
    by = {r["split"]: r for r in rows}
    for what in ("right", "total"):
        assert by["Easy"][what] + by["Hard"][what] == by["Overall"][what] == sum(by[s][what] for s in ("Short", "Medium", "Long"))
    assert (by["Overall"]["low"], by["Overall"]["high"]) == pytest.approx((23.9, 31.7), abs=0.05)
    assert max(r["low"] for r in rows) < min(r["high"] for r in rows), "at these sizes the splits do not differ"


def test_kinds_that_are_left_and_splits_without_a_question(tmp_path: Path) -> None:
    """Hard is what is not easy, Long what is neither short nor medium; a split that has no question has no row."""
    items = items_of(tmp_path, row("a", difficulty="Easy", length="Short"), row("b", difficulty="", length="64k"))
    rows = report(items, {"a": "The correct answer is (D)", "other": "The correct answer is (D)"})
    assert [(r["split"], r["right"], r["total"]) for r in rows] == [("Overall", 1, 2), ("Hard", 1, 2), ("Long", 1, 2)]
    assert rows[0]["score"] == 50.0 and 0 < rows[0]["low"] < 50 < rows[0]["high"] < 100
    assert report([], {}) == []


_LACKING = {name: value for name, value in row().items() if name not in ("question", "choice_C")}
_BAD: dict[str, tuple[str | bytes, str]] = {
    "not json": ("version https://git-lfs", "is no JSON"),
    "json lines": (json.dumps(row("a")) + "\n" + json.dumps(row("b")), "is no JSON"),
    "not utf-8": (b"\xff\xfe\x00", "is no JSON"),
    "empty": ("", "is no JSON"),
    "object": (json.dumps({"data": [row()]}), "is no list of questions"),
    "no questions": ("[]", "is no list of questions"),
    "no object": (json.dumps([row(), "text"]), ": question 1: has no text in _id, domain, "),
    "lacks a field": (json.dumps([_LACKING]), ": question 0: has no text in question, choice_C;"),
    "null": (json.dumps([row("a"), row("b", context=None)]), ": question 1: has no text in context;"),
    "answer": (json.dumps([row(answer="E\n")]), ": question 0: its answer is 'E\\n', not A, B, C or D;"),
    "two letters": (json.dumps([row(answer="AB")]), ": question 0: its answer is 'AB', not A, B, C or D;"),
    "twice": (json.dumps([row("a"), row("b"), row("a")]), ": question 2: _id 'a' is there twice;"),
}


@pytest.mark.parametrize("name", _BAD)
def test_another_file_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    content, message = _BAD[name]
    file = tmp_path / "data.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    _refused(file, message)


def test_no_file_is_told_in_a_line(tmp_path: Path) -> None:
    _refused(tmp_path / "absent.json", "cannot be read")
    _refused(tmp_path, "cannot be read")


def _refused(file: Path, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        read_items(file)
    text = str(caught.value)
    assert text.startswith(str(file)) and message in text and "\n" not in text
    assert "file data.json of the dataset zai-org/LongBench-v2 on the Hugging Face hub" in text
