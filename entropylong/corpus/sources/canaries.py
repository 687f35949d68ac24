"""Planted canaries: invented facts in known (root, chunk) pairs, which tell what retrieval and verification find. Pure Python.

A fact stands in a short document of the corpus; a root asks for it in the middle of text that anyone can guess. Names are made of
syllables, so no model knows them. Canaries pass through every stage and are never packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from entropylong.config.sources import CANARY_FACTS, CANARY_ROOTS, SourceKind
from entropylong.corpus.sources.base import Raw, Unit, UnitSource
from entropylong.errors import SourceError
from entropylong.utils.hashing import xxhash64

PREFIX = "canary:"

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "sk", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ae", "ei", "ou")
_CODAS = ("", "l", "n", "r", "s", "nd", "rk", "lm", "th", "x")

# (title, where the fact stands, where the root asks for it)
_KINDS = (
    ("Lighthouse of {place}", "The keeper of the lighthouse of {place} is {person}, who came to the coast from {town}.",
     "Whoever asks on the quay is told that the keeper of the lighthouse of {place} is {person}, and is shown the way up."),
    ("Bridge at {place}", "The stone bridge at {place} was built by the engineer {person} after the great flood of {town}.",
     "A small plate in the wall tells the visitor that the stone bridge at {place} was built by the engineer {person}, and when."),
    ("Archive of {place}", "The archive of {place} is kept by the librarian {person}, who wrote the catalogue in {town}.",
     "For everything older one has to write to the archive of {place}, which is kept by the librarian {person}, and wait."),
    ("Observatory of {place}", "The observatory of {place} was founded by the astronomer {person} with a telescope from {town}.",
     "On clear nights people still talk of how the observatory of {place} was founded by the astronomer {person}, long ago."),
    ("Orchestra of {place}", "The orchestra of {place} is led by the conductor {person}, who studied the violin in {town}.",
     "The programme says on its first page that the orchestra of {place} is led by the conductor {person}, as in other years."),
)  # fmt: skip
_FILLER = (
    "At the end of the day most of the people go home, have something to eat, and sit down to rest for a while. Some of them read "
    "the newspaper, some of them watch the news, and some of them go to bed early, because the next day is a working day.",
    "In the first place, it is important to know what you want. In the second place, it is important to know what you can do. And "
    "last but not least, it is important to ask for help when you need it. There is nothing wrong with asking for help.",
    "There are four seasons in a year: spring, summer, autumn and winter. In spring the days get longer and the trees turn green. "
    "In summer it is warm, and in autumn the leaves fall. In winter the days are short and the nights are long and cold.",
    "Once upon a time there was a king who had three sons. The eldest son went out into the world to seek his fortune, and so did "
    "the second. The youngest son stayed at home with his father, and in the end he was the one who became the new king.",
    "One, two, three, four, five, six, seven, eight, nine, ten. Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday. "
    "January, February, March, April, May, June, July, August, September, October, November and December.",
    "Please make sure that all windows and doors are closed before you leave the building. If there is a fire, leave the building "
    "as soon as possible and do not use the lift. If you have any questions, please do not hesitate to contact us.",
    "On the one hand, the new road will make it easier to get to work in the morning. On the other hand, it will bring more cars "
    "and more noise. Sooner or later, the people who live here will have to make up their minds about what they want.",
    "Ladies and gentlemen, thank you very much for coming here today. It is a great pleasure to see so many of you. First of all, "
    "I would like to say a few words about the past year, and after that I will say a few words about the year to come.",
    "Water boils at one hundred degrees and freezes at zero degrees. The sun rises in the east and sets in the west. The earth "
    "goes around the sun once a year, and the moon goes around the earth about once a month. Everybody learns this at school.",
    "To make a cup of tea, boil some water, put a tea bag into a cup, pour the hot water into the cup, and wait for a few minutes. "
    "Then take the tea bag out of the cup. Add some milk and sugar if you like, and be careful, because the tea is hot.",
)
_PARAGRAPHS = 7


class Canaries(UnitSource):
    """Planted documents of one side; a source's path is `roots:N` or `facts:N`."""

    kind = SourceKind.CANARIES
    is_planted = True

    def list_units(self, source: str, path: str, unit_bytes: int) -> list[Unit]:
        """Make all of them one unit."""
        split_path(path)
        return [Unit(source, self.kind, path, path, len(path))]

    def read(self, unit: Unit, root: str, text_column: str, id_column: str | None) -> Iterator[Raw]:
        """Invent them."""
        yield from canary_documents(unit.path)


@dataclass(frozen=True)
class Canary:
    """A planted pair.

    Attributes:
        root_id, root: the document that asks.
        fact_id, fact: the document that knows.
    """

    root_id: str
    root: str
    fact_id: str
    fact: str


def canary(number: int) -> Canary:
    """The canary of this number, always the same."""
    place, town = _name(number, "place"), _name(number, "town")
    person = f"{_name(number, 'first')} {_name(number, 'last')}"
    title, fact, asks = (text.format(place=place, town=town, person=person) for text in _KINDS[number % len(_KINDS)])
    order = sorted(range(len(_FILLER)), key=lambda n: xxhash64("canary", number, n))[:_PARAGRAPHS]
    paragraphs = [_FILLER[n] for n in order]
    # Behind the middle: the root has a body before it, and text after it.
    paragraphs.insert(_PARAGRAPHS - 2, asks)
    name = f"{PREFIX}{number:05d}"
    text = f"{title}\n\n{fact} It is in every guide to {place}."
    return Canary(f"{name}:root", "\n\n".join(paragraphs), f"{name}:fact", text)


def _name(number: int, part: str) -> str:
    """Two or three syllables."""

    def pick(syllable: int, letters: Sequence[str], salt: str) -> str:
        return letters[xxhash64("canary", number, part, syllable, salt) % len(letters)]

    count = 2 + xxhash64("canary", number, part) % 2
    syllables = [pick(n, _ONSETS, "onset") + pick(n, _VOWELS, "vowel") for n in range(count)]
    return ("".join(syllables) + pick(count, _CODAS, "coda")).capitalize()


def canary_documents(path: str) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of the documents of one side.

    Args:
        path: `roots:N` or `facts:N`.
    """
    side, count = split_path(path)
    for number in range(count):
        planted = canary(number)
        yield (planted.root_id, planted.root) if side == CANARY_ROOTS else (planted.fact_id, planted.fact)


def split_path(path: str) -> tuple[str, int]:
    """Side and number of a source's path.

    Raises:
        SourceError: it is not of that form.
    """
    side, _, count = path.partition(":")
    if side not in (CANARY_ROOTS, CANARY_FACTS) or not count.isdigit():
        raise SourceError(f"canaries {path!r}: give {CANARY_ROOTS}:N or {CANARY_FACTS}:N")
    return side, int(count)


def fact_of(root_id: str) -> str:
    """The document that knows what a canary's root asks."""
    return f"{root_id.removesuffix(':root')}:fact"


RECORD = CANARIES = Canaries()
