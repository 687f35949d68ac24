"""RULER's tasks: a size and a random generator -> a prompt and its references. Pure Python.

As the public generator does, every shuffle is by a fresh generator of the seed, so at one size its order is the same in each
row; names, values and places are drawn anew for each row.
"""

from __future__ import annotations

import itertools
import random
import re
import string
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from scipy.special import zeta

from entropylong.errors import EvaluationError
from entropylong.evaluation.ruler.material import Material, keys, option, prompts

Item = TypeVar("Item")

_DEPTHS = [int(depth) for depth in np.round(np.linspace(0, 100, 40))]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# Below this length the public generator takes smaller steps, and fewer repetitions.
SHORT = 4096
_EXAMPLE_TOKENS = 500


@dataclass(frozen=True)
class Sample:
    """One question.

    Attributes:
        text: what is read; prefix: how the answer begins.
        references: what the answer should hold.
    """

    text: str
    prefix: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What all rows of a task at a length share.

    Attributes:
        length: tokens, those to generate among them.
        seed: of the benchmark.
        material: its files.
        count: tokens of a text, without special tokens.
    """

    length: int
    seed: int
    material: Material
    count: Callable[[str], int]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """In the order that this seed always gives."""
        order = list(items)
        random.Random(self.seed).shuffle(order)
        return order


Build = Callable[[Setting, int, random.Random, int], Sample]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        prompt: its entry in prompts.yaml, which names the tokens to generate too.
        build: (setting, size, generator, row) -> sample.
        step, short_step: of the size, from `SHORT` tokens on and below.
        needs: the file that it needs; may_read: others, if they are given.
        any_reference: one reference is enough; else the share of them counts.
    """

    name: str
    prompt: str
    build: Build
    step: int
    short_step: int
    needs: str | None = None
    any_reference: bool = False
    may_read: tuple[str, ...] = ()

    def files(self, material: Material) -> dict[str, str]:
        """The files that it reads, of those that were given: hashes by name."""
        return {name: material.hash_of(name) for name in (self.needs or "", *self.may_read) if name and material.has(name)}

    @property
    def new_tokens(self) -> int:
        return int(prompts()[self.prompt]["new_tokens"])

    def step_at(self, length: int) -> int:
        """How the size changes at a length."""
        return self.step if length >= SHORT else self.short_step


def _filled(name: str, singular: bool = False, **fields: object) -> tuple[str, str]:
    """Template and prefix. One value in all puts the whole template in the singular, before anything is filled in."""
    parts = [prompts()[name]["template"], prompts()[name]["prefix"]]
    if singular:
        parts = [p.replace("Some", "A").replace("are all", "is").replace("are", "is").replace("answers", "answer") for p in parts]
    text, prefix = (part.format(**fields) for part in parts)
    return text, prefix


# --- needles -----------------------------------------------------------------------------------------------------------


def _drawn(kind: str, rng: random.Random) -> str:
    if kind == "numbers":
        return str(rng.randint(1_000_000, 9_999_999))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    adjectives, nouns = keys()
    return f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


def niah(
    haystack: str, kind_of_key: str = "words", kind: str = "numbers", keys_: int = 1, values: int = 1, queries: int = 1
) -> Build:
    """Needles in a haystack of noise, essays or other needles."""

    def build(setting: Setting, size: int, rng: random.Random, row: int) -> Sample:
        def needle(key: str, value: str) -> str:
            return str(prompts()["needle"].format(kind=kind, key=key, value=value))

        names = [_drawn(kind_of_key, rng) for _ in range(max(keys_, queries))]
        hidden = {name: [_drawn(kind, rng) for _ in range(values)] for name in names}
        needles = setting.shuffled([needle(name, value) for name in names for value in hidden[name]])
        if haystack == "essay":
            context = _in_essays(setting.material.essay_words(), size, needles, rng)
        elif haystack == "noise":
            context = _in_lines([prompts()["noise"]] * size, needles, rng)
        else:
            lines = [needle(_drawn(kind_of_key, rng), _drawn(kind, rng)) for _ in range(size)]
            context = _in_lines(lines, needles, rng)
        targets = rng.sample(names, queries)
        query = targets[0] if len(targets) == 1 else f"{', '.join(targets[:-1])}, and {targets[-1]}"
        single = queries * values == 1
        text, prefix = _filled("niah", single, kind=kind[:-1] if single else kind, context=context, query=query)
        return Sample(text, prefix, tuple(value for name in targets for value in hidden[name]))

    return build


def _in_lines(lines: Sequence[str], inserted: Sequence[str], rng: random.Random) -> str:
    """Each at its own line, drawn evenly; never the last."""
    context = list(lines)
    for place, line in zip(sorted(rng.sample(range(len(lines)), len(inserted)), reverse=True), inserted, strict=True):
        context.insert(place, line)
    return "\n".join(context)


def _in_essays(words: Sequence[str], size: int, needles: Sequence[str], rng: random.Random) -> str:
    """The first `size` words, from the beginning again where they end; needles between sentences at distinct depths."""
    sentences = _SENTENCE_END.split(" ".join(itertools.islice(itertools.cycle(words), size)))
    places = sorted(int(len(sentences) * depth / 100) for depth in rng.sample(_DEPTHS, len(needles)))
    parts, last = list[str](), 0
    for place, needle in zip(places, needles, strict=True):
        parts += [*sentences[last:place], needle]
        last = place
    return " ".join([*parts, *sentences[last:]])


# --- variables ---------------------------------------------------------------------------------------------------------


def vt(setting: Setting, size: int, rng: random.Random, row: int) -> Sample:
    """A chain of five variables in noise, after a solved example."""
    example = _chain(_example_lines(setting), 3, setting, rng, random.Random(setting.seed))
    question = _chain(size, 5, setting, rng, rng)
    # The prefix ends in a space: with the one before the answer there are two.
    demonstration = f"{example.text}{example.prefix} {' '.join(example.references)}\n\n"
    return Sample(demonstration + question.text, question.prefix, question.references)


def _chain(lines: int, letters: int, setting: Setting, rng: random.Random, places: random.Random) -> Sample:
    names: dict[str, None] = {}
    while len(names) < 5:
        names["".join(rng.choices(string.ascii_uppercase, k=letters))] = None
    chain, value = list(names), str(rng.randint(10_000, 99_998))
    steps = [f"VAR {chain[0]} = {value}", *(f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(chain))]
    text = [prompts()["noise"]] * lines
    for moved, (place, step) in enumerate(zip(sorted(places.sample(range(lines), len(steps))), steps, strict=True)):
        text.insert(place + moved, step)
    filled, prefix = _filled("vt", context="\n".join(text), query=value, count=len(chain))
    return Sample(filled, prefix, tuple(chain))


@cache
def _example_lines(setting: Setting) -> int:
    """Most lines of noise with which the example is within its tokens."""

    def fits(lines: int) -> bool:
        built = _chain(lines, 3, setting, random.Random(setting.seed), random.Random(setting.seed))
        return setting.count(built.text + built.prefix) + int(prompts()["vt"]["new_tokens"]) <= _EXAMPLE_TOKENS

    # The benchmark looks for it as for every size: by bisection over lines. Its steps are what a row drops that overruns.
    return 5 + bisect_left(range(6, _EXAMPLE_TOKENS), True, key=lambda lines: not fits(lines))


# --- words -------------------------------------------------------------------------------------------------------------


def cwe(setting: Setting, size: int, rng: random.Random, row: int) -> Sample:
    """Ten common words among others, after a solved example."""
    often, seldom = (30, 3) if setting.length >= SHORT else (6, 1)
    example = _counted(setting, 40, 10, 3, rng) if setting.length >= SHORT else _counted(setting, 20, 3, 1, rng)
    question = _counted(setting, size, often, seldom, rng)
    solved = " ".join(f"{number}. {word}" for number, word in enumerate(example.references, start=1))
    return Sample(f"{example.text}{example.prefix} {solved}\n{question.text}", question.prefix, question.references)


def _counted(setting: Setting, distinct: int, often: int, seldom: int, rng: random.Random) -> Sample:
    words: Sequence[str] = setting.material.common_words
    if distinct > len(words):
        if not setting.material.has("words"):
            raise EvaluationError(f"cwe: {distinct:,} distinct words, {len(words):,} are at hand; give {option('words')}")
        words = setting.material.english_words()
    chosen = rng.sample(words, distinct)
    common, others = chosen[:10], chosen[10:]
    listed = setting.shuffled(common * often + others * seldom)
    context = " ".join(f"{number}. {word}" for number, word in enumerate(listed, start=1))
    text, prefix = _filled("cwe", context=context)
    return Sample(text, prefix, tuple(common))


def fwe(setting: Setting, size: int, rng: random.Random, row: int) -> Sample:
    """Coded words whose counts follow a zeta law; the most frequent is dots."""
    budget = setting.length - int(prompts()["fwe"]["new_tokens"])
    coded: set[str] = set()
    while len(coded) < budget // 50:
        coded.add("".join(rng.choices(string.ascii_lowercase, k=6)))
    vocabulary = setting.shuffled(sorted(coded))
    vocabulary[0] = "..."
    ranks = np.arange(1, len(vocabulary) + 1)
    counts = (size * ranks**-2.0 / zeta(2.0)).astype(int)
    words = setting.shuffled([word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)])
    text, prefix = _filled("fwe", context=" ".join(words))
    return Sample(text, prefix, tuple(vocabulary[1:4]))


# --- questions ---------------------------------------------------------------------------------------------------------


def qa(name: str) -> Build:
    """A question's documents among others: of its article first, then of all."""

    def build(setting: Setting, size: int, rng: random.Random, row: int) -> Sample:
        reading = setting.material.reading(name)
        question = reading.questions[row % len(reading.questions)]
        room = size - len(question.gold)
        if room <= len(question.near):
            more = rng.sample(question.near, max(0, room))
        else:
            article = {*question.gold, *question.near}
            others = [number for number in range(len(reading.documents)) if number not in article]
            more = [*question.near, *rng.sample(others, min(len(others), room - len(question.near)))]
        numbers = setting.shuffled([*question.gold, *more])
        documents = [
            prompts()["document"].format(number=place, text=reading.documents[number])
            for place, number in enumerate(numbers, start=1)
        ]
        text, prefix = _filled("qa", context="\n\n".join(documents), query=question.text)
        return Sample(text, prefix, question.answers)

    return build


TASKS = {
    task.name: task
    for task in (
        Task("niah_single_1", "niah", niah("noise"), 25, 5),
        Task("niah_single_2", "niah", niah("essay"), 500, 500, needs="essays"),
        Task("niah_single_3", "niah", niah("essay", kind="uuids"), 500, 500, needs="essays"),
        Task("niah_multikey_1", "niah", niah("essay", keys_=4), 500, 500, needs="essays"),
        Task("niah_multikey_2", "niah", niah("needle"), 25, 5),
        Task("niah_multikey_3", "niah", niah("needle", kind_of_key="uuids", kind="uuids"), 25, 5),
        Task("niah_multivalue", "niah", niah("essay", values=4), 500, 500, needs="essays"),
        Task("niah_multiquery", "niah", niah("essay", queries=4), 500, 500, needs="essays"),
        Task("vt", "vt", vt, 10, 5),
        Task("cwe", "cwe", cwe, 10, 10, may_read=("words",)),
        Task("fwe", "fwe", fwe, 0, 0),
        Task("qa_1", "qa", qa("squad"), 10, 10, needs="squad", any_reference=True),
        Task("qa_2", "qa", qa("hotpotqa"), 10, 10, needs="hotpotqa", any_reference=True),
    )
}
