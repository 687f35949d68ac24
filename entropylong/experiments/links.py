"""Claim A: verification selects real links. Arms over the same judged readings, against gold, and at a distance. Pure numpy.

Gold comes from structure (planted facts, "See Also"), never from the model. Against the winner's curse what counts is the NLL of
the tokens *after* an anchor, which took no part in the choice, with distractors between the context and the root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entropylong.entropy.engine import entropy_at
from entropylong.evaluation.longppl import finite
from entropylong.models.causal_lm import CausalLM
from entropylong.utils.hashing import xxhash64
from entropylong.utils.intervals import bootstrap_interval

VERIFIED, PAPER, NOVERIFY, PERMUTED = "verified", "paper's rule", "noverify", "permuted"
ARMS = (VERIFIED, PAPER, NOVERIFY, PERMUTED)
# Fixed before the experiment was run.
DISTRACTORS, AFTER, RESAMPLES = 3, 16, 4000

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """An anchor of a root and a chunk that is to explain it."""

    root_id: str
    chunk_id: int
    position: int


@dataclass(frozen=True)
class JudgedReading:
    """A retrieved reading: its link, rank and score, and what the two rules say."""

    link: Link
    rank: int
    score: float
    copy_len: int
    passes_paper: bool
    accepted: bool


def arms(readings: Sequence[JudgedReading], max_copy: int | None) -> dict[str, list[Link]]:
    """The links of each arm.

    verified: accepted. paper's rule: gain > epsilon. noverify: per root as many chunks as verified, by (rank, -score). permuted:
    the verified anchors with another root's verified chunks.

    Args:
        readings: retrieved ones of all roots.
        max_copy: the copy limit, which holds in each arm.
    """
    verified = [reading.link for reading in readings if reading.accepted]
    allowed = [reading for reading in readings if max_copy is None or reading.copy_len <= max_copy]
    return {
        VERIFIED: verified,
        PAPER: [reading.link for reading in allowed if reading.passes_paper],
        NOVERIFY: _by_rank(allowed, verified),
        PERMUTED: _permuted(verified),
    }


def _chunks(links: Sequence[Link]) -> dict[str, list[int]]:
    by_root: dict[str, dict[int, None]] = {}
    for link in sorted(links, key=lambda k: (xxhash64(k.root_id), k.root_id, k.chunk_id)):
        by_root.setdefault(link.root_id, {})[link.chunk_id] = None
    return {root: list(chunks) for root, chunks in by_root.items()}


def _by_rank(readings: Sequence[JudgedReading], verified: Sequence[Link]) -> list[Link]:
    chosen: set[tuple[str, int]] = set()
    for root, chunks in _chunks(verified).items():
        best: dict[int, tuple[int, float]] = {}
        for reading in readings:
            if reading.link.root_id == root:
                place = (reading.rank, -reading.score)
                best[reading.link.chunk_id] = min(place, best.get(reading.link.chunk_id, place))
        ranked = sorted(best, key=lambda chunk: (best[chunk], chunk))
        chosen.update((root, chunk) for chunk in ranked[: len(chunks)])
    return [reading.link for reading in readings if (reading.link.root_id, reading.link.chunk_id) in chosen]


def _permuted(verified: Sequence[Link]) -> list[Link]:
    """Each root's chunks replaced by those of the next root in hash order; one that was verified for it too is left out."""
    own = _chunks(verified)
    roots = list(own)
    givers = dict(zip(roots, roots[1:] + roots[:1], strict=True))
    moved = []
    for link in verified:
        giver = own[givers[link.root_id]]
        chunk = giver[own[link.root_id].index(link.chunk_id) % len(giver)]
        if chunk not in own[link.root_id]:
            moved.append(Link(link.root_id, chunk, link.position))
    return moved


@dataclass(frozen=True)
class Text:
    """What a far reading needs of a root.

    Attributes:
        ids: of the root `[tokens]`.
        anchors: all its positions that took part in some choice.
        distractors: ids of chunks that stand between, and of the one that stands in the context's place for the baseline.
    """

    ids: Ids
    anchors: frozenset[int]
    distractors: tuple[Ids, ...]
    stand_in: Ids


def after(text: Text, position: int) -> Ids:
    """The AFTER positions behind an anchor, those that are anchors themselves left out."""
    behind = range(position + 1, min(position + 1 + AFTER, len(text.ids)))
    return np.array([p for p in behind if p not in text.anchors], np.int32)


def far_drops(
    model: CausalLM, texts: Mapping[str, Text], chunks: Mapping[int, Ids], links: Sequence[Link], separator: Sequence[int],
    batch_tokens: int,
) -> dict[Link, tuple[float, int]]:  # fmt: skip
    """By link: the sum of NLL falls over the tokens behind its anchor, in nats, and their number.

    A fall is against the same sequence with another chunk in the context's place: [start] + C + distractors + root.

    Args:
        model: that reads.
        texts: by root id.
        chunks: ids by chunk id.
        links: of all arms.
        separator: between the pieces.
        batch_tokens: of a forward batch.

    Raises:
        EvaluationError: the model gives no number for a token.
    """
    pairs = list(dict.fromkeys((link.root_id, link.chunk_id) for link in links))
    targets: dict[str, Ids] = {
        root: np.unique(np.concatenate([after(texts[root], link.position) for link in links if link.root_id == root]))
        for root in dict.fromkeys(link.root_id for link in links)
    }
    keys: list[tuple[str, int | None]] = [*((root, None) for root in targets), *pairs]
    sequences, positions = [], []
    for root, chunk in keys:
        text = texts[root]
        front: list[int] = list(model.prefix)
        for piece in (text.stand_in if chunk is None else chunks[chunk], *text.distractors):
            front += [*piece.tolist(), *separator]
        sequences.append(np.concatenate([np.array(front, np.int32), text.ids]))
        positions.append(targets[root] + np.int32(len(front)))
    readings = entropy_at(model, sequences, positions, batch_tokens=batch_tokens)
    nll = {key: dict(zip(targets[key[0]].tolist(), finite(r).tolist(), strict=True)) for key, r in zip(keys, readings, strict=True)}
    drops = {}
    for link in links:
        places = after(texts[link.root_id], link.position).tolist()
        without, with_ = nll[link.root_id, None], nll[link.root_id, link.chunk_id]
        drops[link] = (sum(without[p] - with_[p] for p in places), len(places))
    return drops


@dataclass(frozen=True)
class Estimate:
    """A ratio over roots with its 95 % interval, by bootstrap over roots."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sums:
    """Numerator and denominator of a figure, by root `[roots]`; a root that has nothing has zeros."""

    part: Floats
    whole: Floats


def precision(links: Sequence[Link], gold: Mapping[str, frozenset[int]], roots: Sequence[str]) -> Sums:
    """Of each root's chunks in an arm, those that are gold."""
    own = _chunks(links)
    return Sums(
        np.array([len(gold[root] & set(own.get(root, ()))) for root in roots], np.float64),
        np.array([len(own.get(root, ())) for root in roots], np.float64),
    )


def recall(
    links: Sequence[Link], gold: Mapping[str, frozenset[int]], targets: Mapping[str, frozenset[str]], doc_of: Mapping[int, str],
    roots: Sequence[str],
) -> Sums:  # fmt: skip
    """Of each root's gold documents, those of which an arm has a chunk."""
    own = _chunks(links)
    hit = [len({doc_of[chunk] for chunk in own.get(root, ()) if chunk in gold[root]}) for root in roots]
    return Sums(np.array(hit, np.float64), np.array([len(targets[root]) for root in roots], np.float64))


def drops_of(links: Sequence[Link], drops: Mapping[Link, tuple[float, int]], roots: Sequence[str]) -> Sums:
    """NLL falls and tokens, by root."""
    part, whole = dict.fromkeys(roots, 0.0), dict.fromkeys(roots, 0)
    for link in links:
        total, count = drops[link]
        part[link.root_id] += total
        whole[link.root_id] += count
    return Sums(np.array([part[r] for r in roots]), np.array([whole[r] for r in roots], np.float64))


def estimate(sums: Sums, minus: Sums | None = None, seed: int = 0) -> Estimate | None:
    """A ratio of sums over roots, or the difference of two, resampled together; None where there is nothing to divide by.

    Args:
        sums: of an arm.
        minus: of another arm, over the same roots.
        seed: of the resamples.
    """
    each = [sums] if minus is None else [sums, minus]
    if any(not s.whole.sum() for s in each):
        return None

    def ratio(part: Floats, whole: Floats, *others: Floats, axis: int) -> Floats:
        own: Floats = part.sum(axis) / whole.sum(axis)
        return own - ratio(*others, axis=axis) if others else own

    samples = [column for s in each for column in (s.part, s.whole)]
    return Estimate(float(ratio(*samples, axis=-1)), *bootstrap_interval(samples, ratio, draws=RESAMPLES, paired=True, seed=seed))
