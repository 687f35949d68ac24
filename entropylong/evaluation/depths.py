"""`entropylong evaluate attention`: a needle at several depths and lengths, and how much of the last token's attention is on it.

Pure torch. The prompts are RULER's niah_single_1 but for the needle's place, which is given; no answer is generated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.errors import EvaluationError
from entropylong.evaluation.attention import Span, last_token, shares_by_depth
from entropylong.evaluation.results import Result
from entropylong.evaluation.ruler.material import Material, prompts
from entropylong.evaluation.ruler.tasks import TASKS, Setting
from entropylong.models.cache import WorkerModel, load
from entropylong.models.causal_lm import encode_plain, pad_and_start
from entropylong.utils.hashing import digest
from entropylong.utils.intervals import mean_interval

PICTURE = "attention.png"
LABEL = "share of the last token's attention on a needle's number, mean over heads and layers, in RULER-compatible niah_single_1"


@dataclass(frozen=True)
class Haystack:
    """A prompt in parts, as token ids: front, lines before the needle, needle, lines after it, question.

    Attributes:
        front: start token and instruction; question: with the answer's prefix.
        needle: its line; answer: where in it the number is.
        line: one of noise; lines: how many there are.
    """

    front: tuple[int, ...]
    needle: tuple[int, ...]
    answer: Span
    line: tuple[int, ...]
    lines: int
    question: tuple[int, ...]


def haystack(tokenizer: Any, start: Sequence[int], length: int, seed: int, index: int) -> Haystack:
    """A niah_single_1 prompt of at most `length` tokens, as full as whole lines allow.

    Args:
        tokenizer: the model's, a fast one.
        start: what stands before a document.
        length: tokens, the start's among them.
        seed, index: which key and number.

    Raises:
        EvaluationError: no line fits beside the needle, or the tokenizer does not tell where tokens are.
    """
    if not tokenizer.is_fast:
        raise EvaluationError("the tokenizer does not tell where its tokens stand in a text; save the model with a fast one")

    def encoded(text: str) -> tuple[int, ...]:
        return tuple(encode_plain(tokenizer, text))

    setting = Setting(length, seed, Material(), lambda text: len(encoded(text)))
    sample = TASKS["niah_single_1"].build(setting, 1, random.Random(f"{seed}/attention/{index}"), index)
    instruction, *between, question = sample.text.split("\n")
    (number,) = sample.references
    needle = next(line for line in between if number in line) + "\n"
    front, question_ids, line = (
        (*start, *encoded(f"{instruction}\n")),
        encoded(question + sample.prefix),
        encoded(f"{prompts()['noise']}\n"),
    )
    lines = (length - len(front) - len(encoded(needle)) - len(question_ids)) // len(line)
    if lines < 1:
        raise EvaluationError(
            f"attention: {length:,} tokens are too few for a needle and a line of noise; ask for a greater length"
        )
    place = needle.index(number)
    offsets = tokenizer(needle, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)["offset_mapping"]
    hit = [at for at, (first, last) in enumerate(offsets) if first < place + len(number) and last > place]
    return Haystack(front, encoded(needle), (hit[0], hit[-1] + 1), line, lines, question_ids)


def evaluate_attention(
    model: WorkerModel, folder: Path, lengths: Sequence[int], depths: Sequence[int], samples: int, seed: int, out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Result, list[dict[str, Any]]]:  # fmt: skip
    """Shares by length and depth; one forward pass each.

    Args:
        model: a causal LM; folder: of it.
        lengths: tokens.
        depths: per cent of the noise that stands before the needle; it is put at the nearest line's end.
        samples: needles a length, each at all depths.
        seed: another seed, other needles.
        out: folder under which the run has a folder of its own.
        progress: told (passes so far, passes in all).

    Returns:
        What is kept, and a row a length and depth: length, depth, share, low, high (bootstrap over the needles, 95 %).

    Raises:
        EvaluationError: a length is too short, or the model's attention cannot be read.
    """
    tokenizer = load(model.tokenizer())
    start, _ = pad_and_start(tokenizer, model.document_start_id)
    haystacks = {(length, index): haystack(tokenizer, start, length, seed, index) for length in lengths for index in range(samples)}
    facts = {"benchmark": "attention", "label": LABEL, "model": model.spec.name, "model_hash": model.fingerprint,
             "dtype": model.dtype, "lengths": list(lengths), "depths": list(depths), "samples": samples, "attention_seed": seed,
             "prompts": digest([vars(one) for one in haystacks.values()])}  # fmt: skip
    items: dict[str, tuple[float, float]] = {}
    total = len(haystacks) * len(depths)
    progress(0, total)
    with last_token(folder, model.dtype) as attend:
        for (length, index), hay in haystacks.items():
            filler = hay.line * hay.lines
            for depth in depths:
                at = round(depth / 100 * hay.lines) / hay.lines
                (share,) = shares_by_depth(
                    attend, hay.needle, filler, [at], front=hay.front, question=hay.question, answer=hay.answer
                )
                items[f"{length}/{depth}/{index}"] = float(share), 1.0
                progress(len(items), total)
    scores = [_score(length, depth, [items[f"{length}/{depth}/{index}"][0] for index in range(samples)])
              for length in lengths for depth in depths]  # fmt: skip
    figures = {f"attention.{score['length']}.{score['depth']}": score["share"] for score in scores}
    figures |= {f"attention.{n}": mean(score["share"] for score in scores if score["length"] == n) for n in lengths}
    place = out / digest(facts)
    place.mkdir(parents=True, exist_ok=True)
    draw(facts, figures, place / PICTURE)
    return Result(place, facts, figures).kept(scores, items), scores


def _score(length: int, depth: int, shares: Sequence[float]) -> dict[str, Any]:
    low, high = mean_interval(shares)
    return {"length": length, "depth": depth, "share": mean(shares), "low": low, "high": high}


def attention_table(result: Result, scores: Sequence[dict[str, Any]]) -> Table:
    """Shares in per cent by length and depth, with their 95 % intervals."""
    lengths: list[int] = result.facts["lengths"]
    by_cell = {(score["length"], score["depth"]): score for score in scores}
    table = Table(title="last token's attention on the answer, per cent", title_justify="left", box=SIMPLE_HEAD)
    for name in ("depth", *(f"{length:,}" for length in lengths)):
        table.add_column(name, justify="right")
    for depth in result.facts["depths"]:
        cells = [by_cell[length, depth] for length in lengths]
        # An interval below its share: five lengths fit a terminal.
        table.add_row(f"{depth} %", *(f"{100 * c['share']:.2f}\n[{100 * c['low']:.2f}, {100 * c['high']:.2f}]" for c in cells))
    table.add_section()
    table.add_row("mean", *(f"{100 * result.figures[f'attention.{length}']:.2f}" for length in lengths))
    return table


def draw(facts: dict[str, Any], figures: dict[str, float], path: Path) -> None:
    """A heat map: lengths across, depths down."""
    from matplotlib.colors import LinearSegmentedColormap

    from entropylong.utils.chart_style import DPI, FOUND, INK, drawn

    lengths, depths = facts["lengths"], facts["depths"]
    shares = 100 * np.array([[figures[f"attention.{length}.{depth}"] for length in lengths] for depth in depths])

    def plot(axis: Any) -> None:
        image = axis.imshow(shares, cmap=LinearSegmentedColormap.from_list("share", ["white", FOUND]), vmin=0, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            axis.text(column, row, f"{share:.2f}", ha="center", va="center", color="w" if share > shares.max() / 2 else INK)
        axis.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axis.set_yticks(range(len(depths)), [f"{depth} %" for depth in depths])
        axis.set(xlabel="tokens", ylabel="depth of the answer", title="last token's attention on the answer, per cent")
        axis.figure.colorbar(image)

    drawn(plot, (2.6 + 0.9 * len(lengths), 1.6 + 0.5 * len(depths))).savefig(path, dpi=DPI)
