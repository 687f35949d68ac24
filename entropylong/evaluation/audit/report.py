"""An audit of a sample: figures with their intervals, a table, a picture, and audit.json with each document."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.corpus.decontamination import Grams, Shared, gram_hashes
from entropylong.errors import EvaluationError
from entropylong.evaluation.audit.dataset import Sample
from entropylong.evaluation.audit.measure import Reach, distances_within, reach, repeats
from entropylong.evaluation.results import Result
from entropylong.models.cache import WorkerModel
from entropylong.models.causal_lm import CausalLM, Ids
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.utils.intervals import mean_interval

AUDIT, PICTURE = "audit.json", "audit.png"


@dataclass(frozen=True)
class Audited:
    """One document of the sample.

    Attributes:
        row: number in the data set.
        tokens: that were read.
        reach: at the distances that it is long enough for.
        within, across: shares of its 13-grams that stand in it before, and in another document of the sample: of all its text.
        shared: what it shares with an evaluation set, wherever it stands.
    """

    row: int
    tokens: int
    reach: Reach
    within: float
    across: float
    shared: Shared | None


def audit_sample(
    model: CausalLM, sample: Sample, length: int, grams: Grams | None, batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Audited]:  # fmt: skip
    """Measure the rows of a sample. The model reads its first `length` tokens; repetition and contamination are of all of it.

    Raises:
        EvaluationError: no document is long enough for a far context, ids are not of this model, or it gives no number.
    """
    whole = [_ids(model, content) for _, content in sample.rows]
    ids_list = [ids[:length] for ids in whole]
    longest = max(map(len, ids_list))
    if not distances_within(longest):
        raise EvaluationError(
            f"the longest of {len(ids_list)} documents has {longest} tokens (--length {length}): nothing in it is far; "
            "an audit needs more than 640"
        )
    texts = [str(model.tokenizer.decode(ids.tolist(), skip_special_tokens=True)) for ids in whole]
    repeated = repeats([gram_hashes(text) for text in texts])
    audited = []
    for number, (ids, text) in enumerate(zip(ids_list, texts, strict=True)):
        progress(number, len(ids_list))
        reached = (
            reach(model, ids, distances_within(len(ids)), batch_tokens) if distances_within(len(ids)) else Reach((), (), (), ())
        )
        shared = grams.shared(text) if grams is not None else None
        audited.append(Audited(sample.rows[number][0], len(ids), reached, *repeated[number], shared))
    progress(len(ids_list), len(ids_list))
    return audited


def _ids(model: CausalLM, content: str | Ids) -> Ids:
    if isinstance(content, str):
        return np.array(model.encode(content), np.int32)
    if len(content) and not 0 <= content.min() <= content.max() < model.vocabulary:
        raise EvaluationError(f"token ids up to {content.max()}, the model knows {model.vocabulary}: ids of another tokenizer?")
    front = len(model.prefix)  # it is put in front again when the model reads
    return content[front:] if content[:front].tolist() == model.prefix else content


@dataclass(frozen=True)
class Estimate:
    """A figure of an audit: the mean over `documents`, with its 95 % interval."""

    name: str
    label: str
    value: float
    low: float
    high: float
    documents: int


def metrics_of(audited: Sequence[Audited], excludes: bool) -> list[Estimate]:
    """Means over documents; of a distance, over the documents that are long enough for it.

    Args:
        audited: documents.
        excludes: whether they were compared with evaluation sets.
    """
    estimates = []
    for number, d in enumerate(distances_within(max(doc.tokens for doc in audited))):
        able = [doc.reach for doc in audited if len(doc.reach.asked) > number and doc.reach.asked[number]]
        far, against = ([getattr(r, name)[number] / r.asked[number] for r in able] for name in ("far", "against"))
        estimates.append(_estimate(f"far_{d}", f"tokens that need context beyond {d:,}", far))
        estimates.append(_estimate(f"against_{d}", f"tokens that lose by context beyond {d:,} (chance)", against))
    estimates.append(_estimate("repeated_within", "13-grams that stand earlier in the document", [doc.within for doc in audited]))
    estimates.append(
        _estimate("repeated_across", "13-grams that stand in another document of the sample", [doc.across for doc in audited])
    )
    if excludes:
        hits = [float(doc.shared is not None) for doc in audited]
        estimates.append(_estimate("contaminated", "documents that share 13 words with corpus.exclude", hits))
    return estimates


def _estimate(name: str, label: str, values: Sequence[float]) -> Estimate:
    return Estimate(name, label, float(np.mean(values)), *mean_interval(values), len(values))


def farthest_of(audited: Sequence[Audited]) -> dict[int, int]:
    """Tokens of the sample by the largest of the distances beyond which they need context."""
    distances = distances_within(max(doc.tokens for doc in audited))
    return {d: sum(doc.reach.farthest[n] for doc in audited if len(doc.reach.farthest) > n) for n, d in enumerate(distances)}


def keep_audit(
    reader: WorkerModel, dataset: str, sample: Sample, audited: Sequence[Audited], length: int, excluded: str | None, out: Path
) -> tuple[Result, list[Estimate]]:
    """Write audit.json, the scores as of an evaluation, and the picture into a folder of the audit's own.

    Args:
        reader: the model that read.
        dataset: its name for the record.
        sample: what was read.
        audited: what was measured.
        length: tokens at which a document was cut.
        excluded: hash of the evaluation sets' 13-grams; None: there are none.
        out: folder under which the audit has its own.
    """
    facts: dict[str, Any] = {
        "benchmark": "audit", "dataset": dataset, "rows": sample.total, "samples": len(audited), "content": sample.content,
        "model": reader.spec.name, "model_hash": reader.fingerprint, "dtype": reader.dtype, "length": length, "excluded": excluded,
    }  # fmt: skip
    figures = metrics_of(audited, excluded is not None)
    values = {f"audit.{f.name}": f.value for f in figures} | {"audit.duplicates": sample.copies / sample.total}
    folder = out / digest(facts)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "facts": facts,
        "duplicates": {"rows": sample.total, "copies": sample.copies},
        "farthest": farthest_of(audited),
        "documents": [asdict(doc) for doc in audited],
    }
    write_whole(folder / AUDIT, json.dumps(whole, indent=1))
    draw(figures, farthest_of(audited), folder / PICTURE)
    items = {
        f"{doc.row}/{d}": (doc.reach.far[n] / doc.reach.asked[n], float(doc.reach.asked[n]))
        for doc in audited
        for n, d in enumerate(distances_within(doc.tokens))
        if doc.reach.asked[n]
    }
    return Result(folder, facts, values).kept([asdict(figure) for figure in figures], items), figures


def audit_table(sample: Sample, figures: Sequence[Estimate]) -> Table:
    """The figures for people."""
    table = Table(box=SIMPLE_HEAD, caption="Means over documents; intervals by bootstrap over them.", caption_justify="left")
    for column in ("figure", "share", "95 %", "documents"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure in figures:
        table.add_row(figure.label, f"{figure.value:.2%}", f"{figure.low:.2%} .. {figure.high:.2%}", f"{figure.documents:,}")
    table.add_row(
        "rows that are exact copies of an earlier one", f"{sample.copies / sample.total:.2%}", "all rows", f"{sample.total:,}"
    )
    return table


def draw(figures: Sequence[Estimate], farthest: dict[int, int], path: Path) -> None:
    """A picture: what share of tokens needs context beyond each distance, beside chance; and how far those tokens reach."""
    from entropylong.utils.chart_style import CHANCE, DPI, FOUND, INK, drawn

    places = np.arange(len(farthest))
    total = max(1, sum(farthest.values()))
    upper = [*list(farthest)[1:], None]
    bands = [f"{d:,} to {above:,}" if above else f"over {d:,}" for d, above in zip(farthest, upper, strict=True)]

    def plot(left: Any, right: Any) -> None:
        for name, color, label, shift in (("far", FOUND, "need it", -0.2), ("against", CHANCE, "lose by it (chance)", 0.2)):
            own = [f for f in figures if f.name.startswith(f"{name}_")]
            errors = np.maximum([[100 * (f.value - f.low) for f in own], [100 * (f.high - f.value) for f in own]], 0)
            shares = [100 * f.value for f in own]
            left.bar(places + shift, shares, 0.4, yerr=errors, ecolor=INK, color=color, label=label, capsize=3)
        left.set(xlabel="context beyond ... tokens", ylabel="tokens, %")
        left.set_xticks(places, [f"{d:,}" for d in farthest])
        left.legend()
        right.bar(places, [100 * n / total for n in farthest.values()], 0.6, color=FOUND)
        right.set(xlabel="how far they reach, tokens", ylabel="far tokens, %")
        right.set_xticks(places, bands)

    drawn(plot, (9, 3.4), columns=2).savefig(path, dpi=DPI)
