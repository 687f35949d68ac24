"""Claim B: training on verified links helps. What a trained model is judged on, and the decision. Pure torch and numpy.

Primary: NLL(permuted context) - NLL(gold context) on target spans of held-out packages, the context thousands of tokens away. The
same items for all arms; intervals by bootstrap over seeds and items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entropylong.entropy.engine import entropy_at
from entropylong.evaluation.longppl import Rule, finite, key_tokens, long_ppl
from entropylong.evaluation.ruler.material import Material
from entropylong.evaluation.ruler.prepare import rows_of
from entropylong.evaluation.ruler.tasks import TASKS
from entropylong.models.causal_lm import CausalLM
from entropylong.utils.hashing import digest, xxhash64
from entropylong.utils.intervals import bootstrap_interval

# Fixed before the experiment was run.
ARMS = ("verified", "noverify", "permuted")
TUNED_ON = "standard"
SPAN, PLAIN = 16, 2048
TASK_NAMES = ("niah_single_1", "niah_multikey_2", "vt")
RESAMPLES = 4000

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """A held-out link: a context far in front of the root that it was verified for.

    Attributes:
        key: names it.
        context, permuted: ids of the gold context, and of another root's, at most as long.
        between: ids of the chunks that stand between.
        root: ids of the root.
        position: of the anchor in the root; the span is it and the SPAN - 1 tokens behind it.
    """

    key: str
    context: Ids
    permuted: Ids
    between: tuple[Ids, ...]
    root: Ids
    position: int

    def sequence(self, context: Ids, start: Sequence[int], separator: Sequence[int]) -> tuple[Ids, Ids]:
        """Ids with a context in front, and the positions of the span."""
        front = list(start)
        for piece in (context, *self.between):
            front += [*piece.tolist(), *separator]
        span = np.arange(self.position, min(self.position + SPAN, len(self.root)), dtype=np.int32)
        return np.concatenate([np.array(front, np.int32), self.root]), span + np.int32(len(front))


@dataclass(frozen=True)
class HeldOut:
    """All that every model is judged on.

    Attributes:
        items: held-out links.
        plain: held-out text in windows of PLAIN tokens.
        answers: RULER questions by key: ids of the question, then of its gold answer.
        keys: positions of the base model's key tokens in each item's sequence.
        rule: of those key tokens.
    """

    items: tuple[Item, ...]
    plain: tuple[Ids, ...]
    answers: Mapping[str, tuple[Ids, Ids]]
    separator: tuple[int, ...]
    keys: tuple[Ids, ...] = ()

    @property
    def identity(self) -> str:
        """Stands for all of it: what two models were judged on is the same, to the token."""
        items = [[i.key, i.position, _hash(i.context, i.permuted, *i.between, i.root)] for i in self.items]
        answers = [[key, _hash(*pair)] for key, pair in self.answers.items()]
        return digest([items, _hash(*self.plain), answers, list(self.separator), _hash(*self.keys)])


@dataclass(frozen=True)
class Scores:
    """What a model scores.

    Attributes:
        effects: of each item, the primary figure in nats a token.
        answers: of each question, the mean log-probability of its gold answer's tokens.
        long_ppl: over the base model's key tokens, or NaN where there is none.
        plain_nll: of held-out text in windows of 2,048 tokens.
    """

    effects: dict[str, float]
    answers: dict[str, float]
    long_ppl: float
    plain_nll: float


def _hash(*pieces: Ids) -> str:
    return digest([hashlib.sha256(ids.tobytes()).hexdigest() for ids in pieces])


def between(chunks: Mapping[int, Ids], excluded_ids: set[int], key: str, distance: tuple[int, int]) -> tuple[Ids, ...]:
    """Chunks, by hash, that put a context as far away as the item's hash says.

    Args:
        chunks: ids by chunk id.
        excluded_ids: chunks that may not be among them.
        key: of the item.
        distance: least and most tokens.
    """
    low, high = distance
    room = low + xxhash64("distance", key) % max(1, high - low)
    pieces: list[Ids] = []
    for chunk in sorted(chunks, key=lambda c: (xxhash64(key, c), c)):
        if room <= 0:
            break
        if chunk not in excluded_ids:
            pieces.append(chunks[chunk][:room])
            room -= len(pieces[-1])
    return tuple(pieces)


def held_items(
    links: Sequence[tuple[str, int, int]], roots: Mapping[str, tuple[str, Ids]], chunks: Mapping[int, Ids],
    doc_of: Mapping[int, str], most: int, distance: tuple[int, int],
) -> list[Item]:  # fmt: skip
    """Items of held-out links, chosen by hash; each (root, chunk) once, at the first of its links.

    Args:
        links: (root id, chunk id, anchor's position), the best first.
        roots: document and ids by root id.
        chunks: ids by chunk id; doc_of: the document of each.
        most: items.
        distance: least and most tokens between context and root.
    """
    best: dict[tuple[str, int], int] = {}
    verified: dict[str, set[int]] = {}
    of_document: dict[str, set[int]] = {}
    for chunk, document in doc_of.items():
        of_document.setdefault(document, set()).add(chunk)
    for root, chunk, position in links:
        verified.setdefault(root, set()).add(chunk)
        best.setdefault((root, chunk), position)
    items, verified_ids = [], {}
    for root, chunk in sorted(best, key=lambda pair: (xxhash64("item", *pair), pair))[:most]:
        key, (document, ids) = f"{root}/{chunk}", roots[root]
        stand = between(chunks, verified[root] | of_document.get(document, set()), key, distance)
        items.append(Item(key, chunks[chunk], chunks[chunk][:0], stand, ids, best[root, chunk]))
        verified_ids[key] = {chunks[c].tobytes() for c in verified[root]}
    return with_permuted(items, verified_ids)


def windows(texts: Sequence[Ids], separator: Sequence[int]) -> tuple[Ids, ...]:
    """Held-out text in windows of PLAIN tokens; the last one, and so a small corpus's only one, is as long as it is."""
    joined = np.concatenate([np.concatenate([ids, np.array(separator, np.int32)]) for ids in texts])
    cuts = range(0, max(1, len(joined) - 1), PLAIN)
    return tuple(joined[start : start + PLAIN] for start in cuts if len(joined) - start > 1)


def with_permuted(items: Sequence[Item], verified: Mapping[str, set[bytes]]) -> list[Item]:
    """Give each item the context of another that is nearest in length and was not verified for its root; cut to its own length.

    Args:
        items: in which `permuted` is not set yet.
        verified: by item key, the ids (as bytes) of all that was verified for its root.
    """
    permuted_items = []
    for item in items:
        others = [o for o in items if o.context.tobytes() not in verified[item.key]]
        if others:
            other = min(others, key=lambda o: (abs(len(o.context) - len(item.context)), xxhash64(item.key, o.key), o.key))
            moved = other.context[: len(item.context)]
            permuted_items.append(Item(item.key, item.context, moved, item.between, item.root, item.position))
    return permuted_items


def ruler_answers(
    encode: Callable[[str], list[int]], lengths: Sequence[int], samples: int, seed: int
) -> dict[str, tuple[Ids, Ids]]:
    """Questions of three RULER tasks with their gold answers, by key."""
    answers = {}
    for length in lengths:
        for name in TASK_NAMES:
            for row in rows_of(TASKS[name], length, samples, Material(), lambda text: len(encode(text)), seed):
                space = "" if row.prefix.endswith(" ") else " "
                question, answer = encode(row.text + row.prefix), encode(space + " ".join(row.references))
                answers[f"{name}/{length}/{row.index}"] = (np.array(question, np.int32), np.array(answer, np.int32))
    return answers


def find_keys(base: CausalLM, held: HeldOut, batch_tokens: int, **rule: Any) -> tuple[Ids, ...]:
    """The base model's key tokens in each item's sequence (LongPPL), with the gold context in front.

    Args:
        base: the model before training.
        held: its items.
        batch_tokens: of a forward batch.
        rule: what of `key_tokens` differs from the paper's.
    """
    overrides: Rule = rule  # type: ignore[assignment]
    return tuple(key_tokens(base, _whole(base, held, item), batch_tokens=batch_tokens, **overrides) for item in held.items)


def _whole(model: CausalLM, held: HeldOut, item: Item) -> Ids:
    return item.sequence(item.context, (), held.separator)[0]


def judge(model: CausalLM, held: HeldOut, batch_tokens: int) -> Scores:
    """Everything of one model.

    Args:
        model: trained, or the base.
        held: what it is judged on.
        batch_tokens: of a forward batch; a longer sequence goes alone.

    Raises:
        EvaluationError: the model gives no number for a token.
    """

    def mean_nll(sequences: Sequence[Ids], positions: Sequence[Ids]) -> list[float]:
        return [float(finite(reading).mean()) for reading in entropy_at(model, sequences, positions, batch_tokens=batch_tokens)]

    prefix = np.array(model.prefix, np.int32)
    pairs = [item.sequence(c, model.prefix, held.separator) for item in held.items for c in (item.permuted, item.context)]
    nll = mean_nll([ids for ids, _ in pairs], [span for _, span in pairs])
    effects = {item.key: nll[2 * n] - nll[2 * n + 1] for n, item in enumerate(held.items)}
    prompts = [np.concatenate([prefix, question, answer]) for question, answer in held.answers.values()]
    ends = [
        np.arange(len(ids) - len(a), len(ids), dtype=np.int32) for ids, (_, a) in zip(prompts, held.answers.values(), strict=True)
    ]
    answers = {key: -value for key, value in zip(held.answers, mean_nll(prompts, ends), strict=True)}
    windows = [np.concatenate([prefix, window]) for window in held.plain]
    first = max(1, len(prefix))
    plain = mean_nll(windows, [np.arange(first, len(window), dtype=np.int32) for window in windows])
    long = float("nan")
    if any(map(len, held.keys)):
        long = long_ppl(model, [_whole(model, held, item) for item in held.items], held.keys, batch_tokens).long_ppl
    return Scores(effects, answers, long, float(np.mean(plain)))


@dataclass(frozen=True)
class Difference:
    """Of two arms: the mean over seeds and items, with its 95 % interval."""

    value: float
    low: float
    high: float


def difference(first: Floats, second: Floats, seed: int = 0) -> Difference:
    """Mean of first - second, by bootstrap over seeds and items, both drawn with replacement.

    Args:
        first, second: `[seeds, items]` of two arms, the same seeds and items.
        seed: of the resamples.
    """
    gap = first - second

    def mean(seeds: Ids, items: Ids, axis: int) -> Floats:
        means: Floats = gap[seeds[..., :, None], items[..., None, :]].mean(axis=(axis - 1, axis))
        return means

    places = [np.arange(size) for size in gap.shape]
    return Difference(float(gap.mean()), *bootstrap_interval(places, mean, draws=RESAMPLES, seed=seed))


def differences(by_arm: Mapping[str, Sequence[Scores]], read: Callable[[Scores], dict[str, float]]) -> dict[str, Difference]:
    """verified minus each other arm, of a figure by item.

    Args:
        by_arm: of each arm its runs, the same seeds in the same order.
        read: scores -> the figure by item.
    """
    keys = sorted(read(by_arm[ARMS[0]][0]))
    table = {arm: np.array([[read(scores)[key] for key in keys] for scores in runs]) for arm, runs in by_arm.items()}
    return {arm: difference(table[ARMS[0]], table[arm]) for arm in ARMS[1:]}


def claim_holds(differences: Mapping[str, Difference]) -> bool:
    """Whether the intervals of verified - noverify and verified - permuted both lie above 0."""
    return all(differences[arm].low > 0 for arm in ARMS[1:])
