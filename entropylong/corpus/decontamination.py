"""Which texts share 13 consecutive words with an evaluation set. Pure numpy.

A word is a run of letters and digits of the text in Unicode form NFKC and lower case; of scripts that are written without spaces
(Han, kana, Thai, Lao, Khmer, Burmese) each character is one. Punctuation, markup and white space do not count. A text of fewer
than 13 words has no 13-gram and matches nothing: an answer like "Paris" stands in half of any corpus.

A 13-gram is kept as 64 bits: xxHash64 of its words, combined as a polynomial modulo 2^64. Of 10^12 grams of a corpus against 10^6
of evaluation sets, one in twenty times a single one matches by chance.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

GRAM = 13
_BY_CHARACTER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_BY_CHARACTER}]|[^\\W_{_BY_CHARACTER}]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
# Distinct words whose hashes are remembered: some 60 MB.
_REMEMBERED = 500_000

Hashes = npt.NDArray[np.uint64]
Owners = npt.NDArray[np.uint32]


class _WordHashes(dict[str, int]):
    """Texts repeat their words: to look one up is several times faster than to hash it."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        self[word] = value = xxhash.xxh64_intdigest(word.encode())
        return value


_HASHES = _WordHashes()


def words_of(text: str) -> list[str]:
    """The normalised words of a text, in order."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return _WORD.findall(plain.lower())


def gram_hashes(text: str) -> Hashes:
    """A hash for each 13 consecutive words, in order `[max(0, words - 12)]`."""
    words = words_of(text)
    count = max(0, len(words) - GRAM + 1)
    total = np.zeros(count, np.uint64)
    if count:
        hashes = np.fromiter(map(_HASHES.__getitem__, words), np.uint64, len(words))
        for place in range(GRAM):
            total *= _BASE
            total += hashes[place : place + count]
    return total


def strings_in(value: Any) -> Iterator[str]:
    """The strings of a JSON value, those of nested lists and objects too; keys are not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)


@dataclass(frozen=True)
class Shared:
    """What a text shares with an evaluation set.

    Attributes:
        name: of the set.
        words: the first 13 words of the text that stand there too.
    """

    name: str
    words: str

    def __str__(self) -> str:
        return f"13 words stand in {self.name} too: {self.words}"


@dataclass(frozen=True)
class Grams:
    """The 13-grams of evaluation sets.

    Attributes:
        hashes: sorted, each once `[grams]`.
        owners: number of the first set that each stands in `[grams]`.
        names: of the sets.
    """

    hashes: Hashes
    owners: Owners
    names: tuple[str, ...]

    @staticmethod
    def of(sets: Iterable[tuple[str, Iterable[str]]]) -> Grams:
        """The grams of sets, given as (name, texts); no gram goes across two texts."""
        names, set_hashes = [], []
        for name, texts in sets:
            names.append(name)
            set_hashes.append(np.unique(np.concatenate([np.zeros(0, np.uint64), *map(gram_hashes, texts)])))
        every = np.concatenate([np.zeros(0, np.uint64), *set_hashes])
        hashes, first = np.unique(every, return_index=True)
        return Grams(hashes, np.repeat(np.arange(len(names), dtype=np.uint32), list(map(len, set_hashes)))[first], tuple(names))

    def places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Where each hash stands among the grams; -1: nowhere."""
        if not len(self.hashes):
            return np.full(len(hashes), -1, np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, at, -1)

    def shared(self, text: str) -> Shared | None:
        """The first 13 words of a text that stand in a set; None where none do."""
        places = self.places(gram_hashes(text))
        matches = np.flatnonzero(places >= 0)
        if not len(matches):
            return None
        start = int(matches[0])
        return Shared(self.names[int(self.owners[places[start]])], " ".join(words_of(text)[start : start + GRAM]))
