"""Gain in place: does a verified dependency still lower the entropy in the assembled sequence, and is it this context? Pure torch.

In: packed sequences with their dependencies. Out: of each dependency the entropy at its anchor for the root alone, in the whole
sequence, and in the same sequence where an equally long other text stands in the place of its context. Stage 3 measured root and
context alone, side by side; here they are as far apart, and among as much other text, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.entropy.engine import Floats, entropy_at
from entropylong.errors import EvaluationError
from entropylong.evaluation.results import Result
from entropylong.models.cache import WorkerModel
from entropylong.models.causal_lm import CausalLM, Ids
from entropylong.utils.hashing import digest, xxhash64
from entropylong.utils.intervals import mean_interval

LABEL = "gain in place: (H of the root alone - H in the whole sequence) / H of the root alone, at the anchors of dependencies"
NAMES = ("entropy_alone", "entropy_in_place", "entropy_without", "verified", "in_place", "own", "survive", "helped")


@dataclass(frozen=True)
class Placed:
    """A dependency in its sequence, all places counted from the sequence's start.

    Attributes:
        key: names it.
        anchor: position of the token that it explains.
        root: where its root starts.
        context: (start, end) of its context.
        gain: as Stage 3 verified it.
    """

    key: str
    anchor: int
    root: int
    context: tuple[int, int]
    gain: float


@dataclass(frozen=True)
class InPlace:
    """Entropies at an anchor, in nats, by one model.

    Attributes:
        dependency: which it is.
        alone: with the root before it alone.
        whole: in the whole sequence.
        without: there, with another text in the place of its context.
    """

    dependency: Placed
    alone: float
    whole: float
    without: float

    @property
    def gain(self) -> float:
        """What all that stands before the root explains, as a share of `alone`."""
        return (self.alone - self.whole) / self.alone

    @property
    def own(self) -> float:
        """What of this the context itself explains."""
        return (self.without - self.whole) / self.alone


def gains_in_place(
    model: CausalLM, sequences: Sequence[tuple[Ids, Sequence[Placed]]], others: Sequence[Ids], *, seed: int = 42,
    batch_tokens: int = 8192, progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[InPlace]:  # fmt: skip
    """Read each dependency alone, in place, and without its context.

    Args:
        model: that reads; it may be another than the one that verified.
        sequences: ids with the start token in front `[tokens]`, and the dependencies to read.
        others: texts to put in the place of contexts, ids of chunks that no sequence holds; several in a row for a longer context.
        seed: which text goes where.
        batch_tokens: of a forward batch; a longer sequence goes alone.
        progress: told (dependencies so far, dependencies in all).

    Raises:
        EvaluationError: there is no other text, or the model gives no number at an anchor.
        ModelError: a sequence does not fit the device's memory.
    """
    if not sum(map(len, others)):
        raise EvaluationError("no other text to put in the place of a context: every chunk stands in these sequences; take fewer")
    total = sum(len(dependencies) for _, dependencies in sequences)
    gains: list[InPlace] = []
    progress(0, total)
    for ids, dependencies in sequences:
        ordered = sorted(dependencies, key=lambda d: (d.context, d.anchor))
        alone = [_root_alone(model, ids, d) for d in ordered]
        spans = [(span, list(own)) for span, own in groupby(ordered, key=lambda d: d.context)]
        swapped = [_replaced(ids, span, others, xxhash64(seed, own[0].key)) for span, own in spans]
        read = _entropies(
            model,
            [*(root for root, _ in alone), ids, *swapped],
            [*(positions for _, positions in alone), _anchors(ordered), *(_anchors(own) for _, own in spans)],
            batch_tokens,
        )
        each, whole, without = read[: len(alone)], read[len(alone)], read[len(alone) + 1 :]
        values = zip(ordered, np.concatenate(each), whole, np.concatenate(without), strict=True)
        gains += [InPlace(d, float(a), float(w), float(o)) for d, a, w, o in values]
        progress(len(gains), total)
    return gains


def _anchors(dependencies: Sequence[Placed]) -> Ids:
    return np.array([d.anchor for d in dependencies], np.int32)


def _root_alone(model: CausalLM, ids: Ids, dependency: Placed) -> tuple[Ids, Ids]:
    """What Stage 1 read, up to the anchor, and where that is."""
    front = np.array(model.prefix, np.int32)
    root = ids[dependency.root : dependency.anchor + 1]
    return np.concatenate([front, root]), np.array([len(front) + len(root) - 1], np.int32)


def _replaced(ids: Ids, span: tuple[int, int], others: Sequence[Ids], salt: int) -> Ids:
    start, end = span
    first = salt % len(others)
    pool = np.concatenate([*others[first:], *others[:first]])
    changed = ids.copy()
    changed[start:end] = np.resize(pool, end - start)
    return changed


def _entropies(model: CausalLM, sequences: Sequence[Ids], positions: Sequence[Ids], batch_tokens: int) -> list[Floats]:
    readings = entropy_at(model, sequences, positions, batch_tokens=batch_tokens)
    for reading in readings:
        if not np.isfinite(reading.entropy).all():
            raise EvaluationError(f"the model gives no number at an anchor ({reading.failure or 'its logits are not finite'})")
    return [reading.entropy for reading in readings]


def keep_gains(
    judged: WorkerModel, sequences: str, gains: Sequence[InPlace], epsilon: float, out: Path
) -> tuple[Result, list[dict[str, Any]]]:
    """Write scores.json and items.json.

    Args:
        judged: the model that read.
        sequences: fingerprint of the table.
        gains: what it read.
        epsilon: gain from which a dependency counts as there: accept.epsilon.
        out: folder under which the run has a folder of its own.

    Returns:
        What is kept, and a row a figure: figure, value, low, high (bootstrap over the dependencies, 95 %).
    """
    facts = {"benchmark": "gain_in_place", "label": LABEL, "model": judged.spec.name, "model_hash": judged.fingerprint,
             "dtype": judged.dtype, "sequences": sequences, "epsilon": epsilon, "dependencies": len(gains),
             "content": digest(sorted(one.dependency.key for one in gains))}  # fmt: skip
    columns = {
        "H at the anchor, root alone, nats": [one.alone for one in gains],
        "H in the whole sequence": [one.whole for one in gains],
        "H there without this context": [one.without for one in gains],
        "verified gain": [one.dependency.gain for one in gains],
        "gain in place": [one.gain for one in gains],
        "of it by this context": [one.own for one in gains],
        f"share with a gain in place above {epsilon}": [float(one.gain > epsilon) for one in gains],
        "share that this context still helps": [float(one.own > 0) for one in gains],
    }
    rows: list[dict[str, Any]] = []
    for name, values in columns.items():
        low, high = mean_interval(values)
        rows.append({"figure": name, "value": float(np.mean(values)), "low": low, "high": high})
    figures = {f"gain.{name}": float(row["value"]) for name, row in zip(NAMES, rows, strict=True)}
    folder = out / digest(facts)
    folder.mkdir(parents=True, exist_ok=True)
    items = {one.dependency.key: (one.own, 1.0) for one in gains}
    return Result(folder, facts, figures).kept(rows, items), rows


def gain_table(rows: Sequence[dict[str, Any]], count: int) -> Table:
    """The figures for people."""
    table = Table(title=f"{count:,} dependencies, read in their sequences", title_justify="left", box=SIMPLE_HEAD)
    for column in ("mean of", "value", "95 %"):
        table.add_column(column, justify="left" if column == "mean of" else "right")
    for row in rows:
        table.add_row(row["figure"], f"{row['value']:.3f}", f"{row['low']:.3f} .. {row['high']:.3f}")
    return table
