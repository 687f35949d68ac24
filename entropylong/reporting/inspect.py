"""One root, for the eye: its text with the entropy as colour, its anchors, what was retrieved, gained and accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from entropylong.errors import UsageError
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain
from entropylong.packing.stage import PACK
from entropylong.reporting.wording import acceptance_rule as rule_words
from entropylong.retrieval.windows import window_text
from entropylong.verification.readings import judged_readings
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind, first_unmet
from entropylong.verification.rules.base import Measures, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from entropylong.config import Config
    from entropylong.pipeline.state import PipelineState

# Nats at which a token is drawn in the strongest colour; a tenth of a large vocabulary's log is common text.
FULL_COLOUR_NATS = 8.0
# The token of an anchor in its text. In colours of its own: a page, unlike a terminal, has none to reverse.
MARKED = "bold rgb(20,20,20) on rgb(255,210,90)"


def inspect_root(state: PipelineState, doc_id: str, chunks_shown: int = 3) -> RenderableType:
    """The picture of one root.

    Raises:
        UsageError: no such document, or it was refused; the message says why.
    """
    scored = _scored(state, doc_id)
    tokenizer = load(state.context.causal_lm.tokenizer())
    frames = {
        name: frame.where(F.col("root_id") == doc_id) if name in PACK.of_chosen_roots else frame
        for name, frame in state.frames(PACK).items()
    }
    anchors = frames["anchors"].collect()
    positions = {a["position"] for a in anchors[0]["anchors"]} if anchors else set()
    parts: list[RenderableType] = [_heat(tokenizer, scored, positions)]
    if anchors:
        row = anchors[0]
        parts.append(
            Text(
                f"{len(positions)} anchors: H > {row['threshold']:.2f} nats "
                f"(mean {row['entropy_mean']:.2f}, std {row['entropy_std']:.2f})"
            )
        )
    else:
        parts.append(Text("No anchor: no eligible position exceeds the threshold.", style="yellow"))
    readings = (
        judged_readings(frames, state.config).where(F.col("kind") == ReadingKind.RETRIEVED).orderBy("position", "rank").collect()
    )
    parts += [_readings_table(readings, unmet(readings, Rule.of(state.config.accept)), tokenizer, scored), _legend(state.config)]
    accepted = sorted((reading for reading in readings if reading["accepted"]), key=lambda c: -c["gain"])
    shown_readings = accepted[:chunks_shown]
    if not accepted:
        parts.append(Text("No candidate was accepted: the root is left out of the verified sequences.", style="yellow"))
    elif len(shown_readings) < len(accepted):
        summary = f"{len(shown_readings)} of {len(accepted)} accepted candidates, those with the largest gains"
        parts.append(Text(f"In full: {summary} (--contexts {len(accepted)} shows all)."))
    texts = chunk_texts(state, [reading["chunk_id"] for reading in shown_readings])
    parts += [_dependency(reading, tokenizer, scored, texts[reading["chunk_id"]]) for reading in shown_readings]
    return Group(*parts)


def _scored(state: PipelineState, doc_id: str) -> Any:
    value = state.fingerprint("scored_documents") or "-"
    rows = state.store.read("scored_documents", value).where(F.col("root_id") == doc_id).collect()
    if not rows:
        is_piece = F.col("doc_id") != doc_id
        near = state.store.read_ok("scored_documents", value).orderBy(is_piece, "root_id").select("root_id").limit(3).collect()
        examples = ", ".join(row.root_id for row in near) or "none yet; run entropylong run first"
        raise UsageError(f"{doc_id}: not among the scored roots (for example: {examples})")
    if rows[0].outcome != "ok":
        raise UsageError(f"{doc_id}: {rows[0].code}: {rows[0].detail}")
    return rows[0]


def _heat(tokenizer: Any, scored: Any, anchors: set[int]) -> Panel:
    """The text, each token on a background from calm to red by its entropy; anchors underlined."""
    entropy = np.nan_to_num(np.frombuffer(scored["entropy"], "<f4"))
    text = Text()
    for position, token in enumerate(scored["input_ids"]):
        heat = min(1.0, float(entropy[position]) / FULL_COLOUR_NATS)
        style = f"on rgb({int(40 + 180 * heat)},{int(40 + 10 * heat)},{int(50 + 10 * heat)}) rgb(235,235,235)"
        text.append(tokenizer.decode([token]), style=f"{style} bold underline" if position in anchors else style)
    return Panel(text, title=escape(scored["root_id"]), subtitle="red = uncertain, underlined = anchor")


def unmet(readings: Sequence[Any], rule: Rule) -> list[str]:
    """Of each judged reading the first condition that it does not meet, as the table's columns name them; "" if it is met all."""
    columns = [np.array([reading[name] for reading in readings], np.float64) for name in ("gain", "excess_gain", "nll", "nll_with")]
    gain, excess, nll, nll_with = columns
    copied = np.array([reading["copy_len"] for reading in readings], np.int32)
    names = {condition.name: condition.column for condition in RULES[rule.rule].conditions}
    return [names.get(name, "") for name in first_unmet(rule, Measures(gain, excess, nll - nll_with, copied)).tolist()]


def _legend(config: Config) -> Text:
    """What the columns are, and what was asked of them."""
    conditions = "; ".join(rule_words(config))
    return Text(
        f"Accepted is a candidate where {conditions}. Where it is not, the last column names the first of these that fails: gain = "
        "(H - H with) / H; excess = gain less the median gain of the controls at the anchor; NLL drop of the true token, nats; "
        "copy = tokens of the verbatim copy over the anchor.",
        style="dim",
    )


def _readings_table(readings: Sequence[Any], refused_by: Sequence[str], tokenizer: Any, scored: Any) -> Table:
    table = Table(title="Anchors and their candidates", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("pos", "token", "H", "rank", "score", "H with", "gain", "excess", "NLL drop", "copy", "accepted"):
        # Where the terminal is narrow the token is cut, not what was measured and decided.
        table.add_column(column, justify="left" if column in ("token", "accepted") else "right", no_wrap=column != "token")
    last = None
    for reading, reason in zip(readings, refused_by, strict=True):
        token = repr(tokenizer.decode([scored["input_ids"][reading["position"]]]))
        first = reading["position"] != last
        last = reading["position"]
        table.add_row(
            str(reading["position"]) if first else "",
            Text(token if first else "", no_wrap=True, overflow="ellipsis"),
            f"{reading['entropy']:.2f}" if first else "",
            str(reading["rank"]),
            f"{reading['score']:.2f}",
            f"{reading['entropy_with']:.2f}",
            f"{reading['gain']:+.2f}",
            "n/a" if reading["excess_gain"] is None else f"{reading['excess_gain']:+.2f}",
            f"{reading['nll'] - reading['nll_with']:+.2f}",
            str(reading["copy_len"]),
            "[green]yes[/]" if reading["accepted"] else f"no: {reason}",
            style="bold" if reading["accepted"] else "dim",
        )
    return table


def context_read(tokenizer: Any, text: str, most: int) -> str:
    """What verification read of a chunk: its first `most` tokens (`contexts.max_tokens`)."""
    ids = encode_plain(tokenizer, text)
    return text if len(ids) <= most else str(tokenizer.decode(ids[:most]))


def chunk_rows(state: PipelineState, chunk_ids: list[int]) -> dict[int, Any]:
    """Chunks by their id: chunk_id, doc_id, text."""
    table = state.ok_rows("chunks")
    rows = table.where(F.col("chunk_id").isin(chunk_ids)).select("chunk_id", "doc_id", "text").collect()
    return {row.chunk_id: row for row in rows}


def chunk_texts(state: PipelineState, chunk_ids: list[int]) -> dict[int, str]:
    """Of chunks what the model read, each below the name of its document."""
    tokenizer, most = load(state.context.causal_lm.tokenizer()), state.config.contexts.max_tokens
    texts = {}
    for row in chunk_rows(state, chunk_ids).values():
        text = context_read(tokenizer, row.text, most)
        cut = "" if text == row.text else f", the first {most} tokens of a chunk: what the model read (contexts.max_tokens)"
        texts[row.chunk_id] = f"[{row.doc_id}{cut}]\n{text}"
    return texts


def _dependency(reading: Any, tokenizer: Any, scored: Any, chunk: str) -> Panel:
    place, context, title = dependency_texts(reading, tokenizer, scored["input_ids"], chunk)
    return Panel(Group(place, Text("\n").append(context)), title=title)


def dependency_texts(reading: Any, tokenizer: Any, ids: list[int], chunk: str) -> tuple[Text, Text, str]:
    """Put a reading in words: the anchor in its text, the context, and what was measured, in one line.

    Args:
        reading: a judged reading.
        tokenizer: of the causal LM.
        ids: of the root.
        chunk: text of the context.
    """
    position = reading["position"]
    before = window_text(tokenizer, ids, position, window=24, side="left")
    token = tokenizer.decode([ids[position]])
    after = tokenizer.decode(ids[position + 1 : position + 9])
    place = Text("...").append(before).append(token, style=MARKED).append(after).append("...")
    context = Text(chunk if len(chunk) <= 1200 else chunk[:1200] + " ...", style="dim")
    measured = (
        f"dependency at {position}: gain {reading['gain']:.2f}, H {reading['entropy']:.2f} -> {reading['entropy_with']:.2f} nats"
    )
    return place, context, measured
