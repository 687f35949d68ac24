"""LongBench-v2 (Bai et al., 2024), zero-shot: 503 questions of four choices over long texts -> prompts, and scores by split.

Pure Python. The prompt, longbench_prompt.txt, is the public benchmark's to the letter and holds nothing else: prompts/0shot.txt of
LongBench-v2 (https://github.com/THUDM/LongBench at 2e00731f), MIT License, Copyright (c) 2023 THU-KEG & Zhipu AI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.errors import EvaluationError
from entropylong.evaluation.generation import Backend, Prompt, generate, run_folder
from entropylong.evaluation.results import Result
from entropylong.utils.hashing import digest
from entropylong.utils.intervals import wilson

# Tokens of a prompt for a model of 128K, its chat template not counted; tokens of an answer; how the benchmark draws it.
MAX_LEN, NEW_TOKENS, TEMPERATURE = 120_000, 128, 0.1
WHERE = "LongBench-v2: file data.json of the dataset zai-org/LongBench-v2 on the Hugging Face hub"
LABEL = "LongBench-v2, zero-shot: no chain of thought; the seed is an addition of ours; an answer that is empty counts as wrong"

_FIELDS = (
    "_id", "domain", "sub_domain", "difficulty", "length", "question", "choice_A", "choice_B", "choice_C", "choice_D", "answer",
    "context",
)  # fmt: skip
_MARKS = ("$DOC$", "$Q$", "$C_A$", "$C_B$", "$C_C$", "$C_D$")
# The form with brackets wins wherever it stands; the bare one takes any word that begins with A to D, as the benchmark does.
_BRACKETED, _BARE = re.compile(r"The correct answer is \(([A-D])\)"), re.compile(r"The correct answer is ([A-D])")


@dataclass(frozen=True)
class Item:
    """A question of the benchmark.

    Attributes:
        key: its _id.
        domain, sub_domain: what the text is.
        difficulty: easy or hard.
        length: of the text: short, medium or long.
        question, choices: what is asked; choices A to D.
        answer: the right letter.
        context: what is read.
    """

    key: str
    domain: str
    sub_domain: str
    difficulty: str
    length: str
    question: str
    choices: tuple[str, str, str, str]
    answer: str
    context: str


# Hard and Long are what is left, as in the public scores.
_SPLITS: dict[str, Callable[[Item], bool]] = {
    "Overall": lambda item: True,
    "Easy": lambda item: item.difficulty == "easy",
    "Hard": lambda item: item.difficulty != "easy",
    "Short": lambda item: item.length == "short",
    "Medium": lambda item: item.length == "medium",
    "Long": lambda item: item.length not in ("short", "medium"),
}
# The EntropyLong paper's scores.
PUBLISHED = {"Overall": 27.6, "Easy": 25.5, "Hard": 28.9, "Short": 30.0, "Medium": 23.7, "Long": 31.5}


def read_items(path: Path) -> list[Item]:
    """The questions of the official JSON file, in its order; other fields are left out.

    Raises:
        EvaluationError: there is no such file, or it is another one.
    """
    try:
        rows = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError:
        raise EvaluationError(f"{path} cannot be read; it should be {WHERE}") from None
    except ValueError:
        raise EvaluationError(f"{path} is no JSON; it should be {WHERE}") from None
    if not isinstance(rows, list) or not rows:
        raise EvaluationError(f"{path} is no list of questions; it should be {WHERE}")
    items: dict[str, Item] = {}
    for number, row in enumerate(rows):
        item = _item(row, f"{path}: question {number}")
        if item.key in items:
            raise EvaluationError(f"{path}: question {number}: _id {item.key!r} is there twice; it should be {WHERE}")
        items[item.key] = item
    return list(items.values())


def _item(row: Any, place: str) -> Item:
    """One object of the file; place names it in messages."""
    texts = row if isinstance(row, dict) else {}
    lacking = [name for name in _FIELDS if not isinstance(texts.get(name), str)]
    if lacking:
        raise EvaluationError(f"{place}: has no text in {', '.join(lacking)}; it should be {WHERE}")
    if texts["answer"] not in ("A", "B", "C", "D"):
        raise EvaluationError(f"{place}: its answer is {texts['answer'][:40]!r}, not A, B, C or D; it should be {WHERE}")
    key, domain, sub_domain, difficulty, length, question, a, b, c, d, answer, context = (texts[name] for name in _FIELDS)
    return Item(key, domain, sub_domain, difficulty, length, question, (a, b, c, d), answer, context)


@cache
def _template() -> str:
    return (files("entropylong.evaluation") / "longbench_prompt.txt").read_text(encoding="utf-8")


def prompt_of(item: Item) -> str:
    """The benchmark's prompt, not truncated. One mark after the other is replaced, so a text that holds a later one is too."""
    text = _template()
    for mark, value in zip(_MARKS, (item.context, item.question, *item.choices), strict=True):
        text = text.replace(mark, value.strip())
    return text


def truncated(text: str, tokenizer: Any, max_len: int) -> str:
    """A text without its middle, where it is longer than max_len tokens; the odd one is kept at the end.

    Args:
        text: a whole prompt, so that the question at its end stays.
        tokenizer: the model's. Its special tokens count, and are not in what is decoded.
        max_len: tokens; the chat template and the answer come on top.
    """
    ids = tokenizer(text, verbose=False)["input_ids"]
    if len(ids) <= max_len:
        return text
    first = max_len // 2
    return str(tokenizer.decode(ids[:first] + ids[len(ids) - (max_len - first) :], skip_special_tokens=True))


def prompts(items: Sequence[Item], tokenizer: Any | None, max_len: int = MAX_LEN) -> list[Prompt]:
    """What a model is asked, by _id; without a tokenizer the texts are whole."""
    texts = (prompt_of(item) for item in items)
    cut = (text if tokenizer is None else truncated(text, tokenizer, max_len) for text in texts)
    return [Prompt(item.key, text, "", NEW_TOKENS) for item, text in zip(items, cut, strict=True)]


def extract(response: str) -> str | None:
    """The letter that a response gives, as the benchmark reads it; None where it finds none."""
    text = response.strip().replace("*", "")
    match = _BRACKETED.search(text) or _BARE.search(text)
    return match[1] if match else None


def report(items: Sequence[Item], answers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Scores by split, each with its interval and the published one beside it: at these sizes their differences are mostly noise.

    Args:
        items: questions that were asked.
        answers: responses by _id. One that is missing, empty or gives no letter is wrong; the public code leaves out empty ones.

    Returns:
        A row for each split that has a question: split, right, total, score (per cent, one decimal), low, high (Wilson, 95 %,
        per cent), published.
    """
    rows = []
    for split, holds in _SPLITS.items():
        own = [item for item in items if holds(item)]
        if not own:
            continue
        right, total = sum(extract(answers.get(item.key, "")) == item.answer for item in own), len(own)
        low, high = wilson(right, total)
        rows.append({
            "split": split, "right": right, "total": total, "score": round(100 * right / total, 1),
            "low": 100 * low, "high": 100 * high, "published": PUBLISHED[split],
        })  # fmt: skip
    return rows


def report_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What `report` gave, for people."""
    table = Table(title=f"LongBench-v2, {rows[0]['total']} questions", title_justify="left", box=SIMPLE_HEAD)
    for name in ("split", "right", "score", "95 %", "published, EntropyLong 8B after SFT"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for row in rows:
        interval = f"[{row['low']:.1f}, {row['high']:.1f}]"
        table.add_row(row["split"], f"{row['right']} of {row['total']}", f"{row['score']}", interval, f"{row['published']}")
    return table


def evaluate_longbench(
    items: Sequence[Item], backend: Backend, tokenizer: Any, max_len: int, out: Path, progress: Callable[[int, int], None]
) -> tuple[Result, list[dict[str, Any]]]:
    """Ask a model the questions that it has not answered yet, and score its answers.

    Args:
        items: questions.
        backend: the model.
        tokenizer: its tokenizer.
        max_len: tokens of a prompt.
        out: folder under which the run has a folder of its own.
        progress: told (answers so far, answers in all).

    Raises:
        EvaluationError: an endpoint fails.
    """
    prompt_list = prompts(items, tokenizer, max_len)
    questions = [vars(prompt) for prompt in prompt_list]
    folder = run_folder(out, backend, questions)
    answers = generate(prompt_list, backend, folder / "answers.jsonl", progress)
    rows = report(items, answers)
    figures = {f"longbench_v2.{row['split'].lower()}": float(row["score"]) for row in rows}
    facts = {**backend.facts, "benchmark": "longbench_v2", "label": LABEL, "questions": len(items), "max_len": max_len,
             "new_tokens": NEW_TOKENS, "prompts": digest(questions)}  # fmt: skip
    right = {item.key: (float(extract(answers[item.key]) == item.answer), 1.0) for item in items}
    return Result(folder, facts, figures).kept(rows, right), rows
