"""What RULER's tasks are made of: its prompts, words of `wonderwords`, and the files that are not shipped. Pure Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from entropylong.errors import EvaluationError
from entropylong.utils.hashing import file_sha256

WHERE = {
    "essays": "Paul Graham's essays: PaulGrahamEssays.json of RULER's download script, {\"text\": ...}, or a plain text file",
    "squad": "SQuAD 2.0 dev set: dev-v2.0.json of rajpurkar.github.io/SQuAD-explorer",
    "hotpotqa": "HotpotQA dev set: hotpot_dev_distractor_v1.json of hotpotqa.github.io",
    "words": "english_words.json of RULER's repository",
}


def option(name: str) -> str:
    """The key that names a file, and which file it should be."""
    return f"evaluate.{name}=FILE: {WHERE[name]}"


@dataclass(frozen=True)
class Question:
    """A question of a reading benchmark.

    Attributes:
        text, answers: of it.
        gold: numbers of the documents that answer it.
        near: numbers of the documents that go with them: the other paragraphs of their article.
    """

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reading:
    """Questions over one list of documents."""

    documents: tuple[str, ...]
    questions: tuple[Question, ...]


@cache
def prompts() -> dict[str, Any]:
    """The benchmark's own words."""
    return dict(yaml.safe_load((files("entropylong.evaluation.ruler") / "prompts.yaml").read_text()))


@cache
def word_list(name: str) -> tuple[str, ...]:
    """A list of `wonderwords`: noun, adjective or verb."""
    lines = (files("wonderwords") / "assets" / f"{name}list.txt").read_text().splitlines()
    return tuple(line.strip() for line in lines if line.strip())


@cache
def keys() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Adjectives and nouns, sorted, each once: a key is a pair of them."""
    return tuple(sorted(set(word_list("adjective")))), tuple(sorted(set(word_list("noun"))))


@dataclass(frozen=True)
class Material:
    """Files of the tasks that need one; None where there is none.

    Attributes:
        essays, squad, hotpotqa, words: see `WHERE`.
    """

    essays: Path | None = None
    squad: Path | None = None
    hotpotqa: Path | None = None
    words: Path | None = None
    _read: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def has(self, name: str) -> bool:
        """Whether a path was given."""
        return getattr(self, name) is not None

    def hash_of(self, name: str) -> str:
        """Of a file that was given.

        Raises:
            EvaluationError: it cannot be read.
        """
        path: Path = getattr(self, name)
        key = f"hash of {name}"
        if key not in self._read:
            try:
                self._read[key] = file_sha256(path.expanduser())[:16]
            except OSError:
                raise EvaluationError(f"evaluate.{name}: {path} cannot be read; it should be {WHERE[name]}") from None
        return str(self._read[key])

    @cached_property
    def common_words(self) -> tuple[str, ...]:
        """Words to count, sorted."""
        return tuple(sorted({*word_list("noun"), *word_list("adjective"), *word_list("verb")}))

    def essay_words(self) -> list[str]:
        """Words of the essays, white space folded."""

        def parse(text: str) -> list[str]:
            essays = json.loads(text)["text"] if text.lstrip().startswith("{") else text
            return str(essays).split()

        return self._file("essays", parse)  # type: ignore[no-any-return]

    def english_words(self) -> list[str]:
        """A longer list of words, sorted."""
        return self._file("words", lambda text: sorted(set(json.loads(text).values())))  # type: ignore[no-any-return]

    def reading(self, name: str) -> Reading:
        """SQuAD or HotpotQA."""
        return self._file(name, _squad if name == "squad" else _hotpotqa)  # type: ignore[no-any-return]

    def _file(self, name: str, parse: Callable[[str], Any]) -> Any:
        path: Path | None = getattr(self, name)
        if path is None:
            raise EvaluationError(f"needs {option(name)}")
        if name not in self._read:
            try:
                content = parse(path.expanduser().read_text())
            except (OSError, UnicodeDecodeError):
                raise EvaluationError(f"evaluate.{name}: {path} cannot be read; it should be {WHERE[name]}") from None
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                raise EvaluationError(f"evaluate.{name}: {path} is another file or version; it should be {WHERE[name]}") from None
            if not (content.questions if isinstance(content, Reading) else content):
                raise EvaluationError(f"evaluate.{name}: {path} holds nothing; it should be {WHERE[name]}")
            self._read[name] = content
        return self._read[name]


def _squad(text: str) -> Reading:
    """Answerable questions with all their answers; the documents are the distinct paragraphs, sorted."""
    articles = json.loads(text)["data"]
    numbers = _numbered(p["context"] for article in articles for p in article["paragraphs"])
    questions = []
    for article in articles:
        own = [numbers[p["context"]] for p in article["paragraphs"]]
        for paragraph, number in zip(article["paragraphs"], own, strict=True):
            for qa in paragraph["qas"]:
                if not qa["is_impossible"]:
                    answers = tuple(answer["text"] for answer in qa["answers"])
                    near = tuple(dict.fromkeys(other for other in own if other != number))
                    questions.append(Question(qa["question"], answers, (number,), near))
    return Reading(tuple(numbers), tuple(questions))


def _hotpotqa(text: str) -> Reading:
    """Each question keeps all the paragraphs of its item."""
    items = json.loads(text)
    rendered = [[f"{title}\n{''.join(sentences)}" for title, sentences in item["context"]] for item in items]
    numbers = _numbered(document for item in rendered for document in item)
    questions = [
        Question(item["question"], (item["answer"],), tuple(numbers[document] for document in own))
        for item, own in zip(items, rendered, strict=True)
    ]
    return Reading(tuple(numbers), tuple(questions))


def _numbered(documents: Any) -> dict[str, int]:
    return {document: number for number, document in enumerate(sorted(set(documents)))}
