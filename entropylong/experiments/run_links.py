"""`entropylong experiment links`: the pipeline over roots whose links are known, then the arms. Spark; a model on the driver."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F
from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.config import Config
from entropylong.core.stage_names import MEASURED
from entropylong.corpus.sources.canaries import PREFIX, fact_of
from entropylong.corpus.sources.demo import DEMO, demo_documents
from entropylong.corpus.sources.registry import SOURCES
from entropylong.errors import EvaluationError
from entropylong.evaluation.results import Result
from entropylong.experiments import links as claim
from entropylong.experiments.links import (
    ARMS,
    NOVERIFY,
    PAPER,
    PERMUTED,
    VERIFIED,
    Estimate,
    JudgedReading,
    Link,
    Sums,
    Text,
    estimate,
)
from entropylong.experiments.paired import paired_chunks
from entropylong.experiments.see_also import choose, linked
from entropylong.models.cache import load
from entropylong.models.causal_lm import encode_plain
from entropylong.pipeline.steps import step_writing
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest, xxhash64
from entropylong.verification.rules.acceptance import ReadingKind

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner

logger = logging.getLogger(__name__)

PLANTED, SEE_ALSO = "planted facts", "See Also"
# The figures of an arm, and the differences that decide the claim.
_FIGURES = (("precision", "precision against gold"), ("recall", "recall of gold"), ("drop", "NLL fall behind the anchor, nats"))


@dataclass(frozen=True)
class Material:
    """What the arms are judged on.

    Attributes:
        readings: retrieved ones.
        texts: by root id.
        chunks: ids of all that a pair names, by chunk id; doc_of: the document of each.
        targets: gold documents by root id; gold: of `chunks`, theirs.
    """

    readings: list[JudgedReading]
    texts: dict[str, Text]
    chunks: dict[int, Any]
    doc_of: dict[int, str]
    targets: dict[str, frozenset[str]]
    gold: dict[str, frozenset[int]]


def write_roots(config: Config) -> Path:
    """The docstrings that are roots, as JSON lines; as many as there are canaries.

    Raises:
        EvaluationError: there are not as many with a "See Also" section.
    """
    documents = _docstrings(config)
    # Four characters a token of prose, fewer of docstrings: a root must reach roots.min_tokens.
    chosen = choose(documents, config.canaries, 4 * config.roots.min_tokens)
    if not config.canaries or len(chosen) < config.canaries:
        raise EvaluationError(
            f"experiment links: {len(chosen)} docstrings of this corpus name others of it, canaries asks for {config.canaries}"
        )
    file = Path(config.workspace) / "see_also.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(json.dumps({"doc_id": doc_id, "text": documents[doc_id]}) + "\n" for doc_id in chosen))
    return file


def _docstrings(config: Config) -> dict[str, str]:
    paths = [s.path for s in config.sources.values() if SOURCES[s.kind] is DEMO and s.path]
    return {doc_id: text for path in paths for module in path.split(",") for doc_id, text in demo_documents(module.strip())}


def gold_documents(documents: Mapping[str, str], roots: Iterable[str]) -> dict[str, frozenset[str]]:
    """Of each root the documents that belong to it: a canary's fact, or what its "See Also" names.

    Args:
        documents: docstrings by doc_id.
        roots: their root ids.
    """
    named = linked(documents)
    return {root: frozenset({fact_of(root)}) if root.startswith(PREFIX) else named.get(root, frozenset()) for root in roots}


def gather(runner: Runner) -> Material:
    """What the arms need, from the tables of a finished verification."""
    frames = runner.state.frames(step_writing("sequences"))
    readings = [
        JudgedReading(Link(c.root_id, c.chunk_id, c.position), c.rank, c.score, c.copy_len, c.passes_paper, c.accepted)
        for c in runner.state.readings()
        .where(F.col("kind") == ReadingKind.RETRIEVED)
        .orderBy("root_id", "position", "rank")
        .collect()
    ]
    chunks, doc_of = paired_chunks(frames)
    roots = {row.root_id: np.array(row.input_ids, np.int32) for row in frames["scored_documents"].collect()}
    anchors: dict[str, set[int]] = {
        row.root_id: {a.position for a in row.anchors} for row in frames["anchors"].select("root_id", "anchors").collect()
    }
    targets = gold_documents(_docstrings(runner.config), roots)
    gold = {root: frozenset(c for c, doc in doc_of.items() if doc in targets[root]) for root in roots}
    texts = {}
    for root, root_ids in roots.items():
        far = [c for c in sorted(chunks, key=lambda c: (xxhash64("far", root, c), c)) if c not in gold[root] and doc_of[c] != root]
        between, stand_in = far[: claim.DISTRACTORS], far[claim.DISTRACTORS]
        texts[root] = Text(root_ids, frozenset(anchors.get(root, ())), tuple(chunks[c] for c in between), chunks[stand_in])
    return Material(readings, texts, chunks, doc_of, targets, gold)


def run_links(config: Config, open_: Callable[[Config], Runner]) -> tuple[Result, Table]:
    """Measure, choose the arms, judge them.

    Args:
        config: with the roots' source.
        open_: a config -> a runner in its workspace.
    """
    runner = open_(config)
    runner.run(MEASURED)
    material = gather(runner)
    chosen = claim.arms(material.readings, config.accept.max_copy_tokens)
    every = list(dict.fromkeys(link for links in chosen.values() for link in links))
    logger.info(
        f"far readings: {len({(k.root_id, k.chunk_id) for k in every})} of contexts, {claim.DISTRACTORS} distractors in between"
    )
    model = load(runner.state.context.causal_lm)
    separator = encode_plain(model.tokenizer, config.separator)
    drops = claim.far_drops(model, material.texts, material.chunks, every, separator, config.run.batch_tokens)
    halves = {PLANTED: [r for r in material.texts if r.startswith(PREFIX)],
              SEE_ALSO: [r for r in material.texts if not r.startswith(PREFIX)]}  # fmt: skip
    halves = {"all roots": [r for half in halves.values() for r in sorted(half)], **{n: sorted(h) for n, h in halves.items()}}
    sums = {(half, arm): _sums(chosen[arm], material, drops, roots) for half, roots in halves.items() for arm in ARMS}
    result = _result(runner, sums, chosen)
    return result, links_table(sums, chosen, halves)


def _of(links: Sequence[Link], roots: Sequence[str]) -> list[Link]:
    """The links of some roots."""
    root_ids = set(roots)
    return [link for link in links if link.root_id in root_ids]


def _sums(
    links: Sequence[Link], material: Material, drops: Mapping[Link, tuple[float, int]], roots: Sequence[str]
) -> dict[str, Sums]:
    own = _of(links, roots)
    return {
        "precision": claim.precision(own, material.gold, roots),
        "recall": claim.recall(own, material.gold, material.targets, material.doc_of, roots),
        "drop": claim.drops_of(own, drops, roots),
    }


def decision(sums: Mapping[tuple[str, str], Mapping[str, Sums]]) -> tuple[bool, dict[str, Estimate | None]]:
    """Whether claim A holds: both intervals exclude 0. Verified contexts are gold more often than those of NoVerify, and lower
    the NLL behind the anchor by more than permuted ones."""
    own = sums["all roots", VERIFIED]
    differences = {
        "precision, verified - noverify": estimate(own["precision"], sums["all roots", NOVERIFY]["precision"]),
        "NLL fall, verified - permuted": estimate(own["drop"], sums["all roots", PERMUTED]["drop"]),
        "precision, verified - paper's rule": estimate(own["precision"], sums["all roots", PAPER]["precision"]),
        "NLL fall, verified - noverify": estimate(own["drop"], sums["all roots", NOVERIFY]["drop"]),
    }
    decide = [differences["precision, verified - noverify"], differences["NLL fall, verified - permuted"]]
    return all(f is not None and f.low > 0 for f in decide), differences


def _result(runner: Runner, sums: Mapping[tuple[str, str], Mapping[str, Sums]], chosen: Mapping[str, Sequence[Link]]) -> Result:
    holds, differences = decision(sums)
    figures = {
        f"{half}.{arm}.{name}": figure for (half, arm), of in sums.items() for name, s in of.items() if (figure := estimate(s))
    }
    config = runner.config
    facts = {
        "benchmark": "experiment_links", "model": config.model.name, "model_hash": runner.state.context.causal_lm.fingerprint,
        "roots": len(sums["all roots", VERIFIED]["drop"].whole), "gains": runner.state.fingerprint("gains"),
        # Of all that is measured and planned, which another alpha or K changes and gains do not.
        "sequences": runner.state.fingerprint("sequences"),
        **config.semantic("accept"),
    }  # fmt: skip
    folder = Path(config.workspace) / "experiments" / f"links-{digest(facts)}"
    folder.mkdir(parents=True, exist_ok=True)
    flat = {name.replace(" ", "_").replace("'", ""): f.value for name, f in figures.items()} | {"claim_holds": float(holds)}
    detail = {
        "differences": {name: asdict(f) if f else None for name, f in differences.items()},
        "figures": {name: asdict(f) for name, f in figures.items()},
        "links": {arm: len(links) for arm, links in chosen.items()},
    }
    return Result(folder, facts, flat).kept([detail], {})


def links_table(
    sums: Mapping[tuple[str, str], Mapping[str, Sums]], chosen: Mapping[str, Sequence[Link]], halves: Mapping[str, Sequence[str]]
) -> Table:
    """Arms by half, with 95 % intervals, and what the rule says."""
    table = Table(title="Claim A: verification selects real links", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("roots", "arm", "links", *(label for _, label in _FIGURES)):
        table.add_column(heading, justify="left" if heading in ("roots", "arm") else "right")
    for half, roots in halves.items():
        for arm in ARMS:
            links = _of(chosen[arm], roots)
            row = [_shown(estimate(sums[half, arm][name])) for name, _ in _FIGURES]
            table.add_row(f"{half} ({len(roots)})" if arm == VERIFIED else "", arm, f"{len(links):,}", *row)
        table.add_section()
    holds, differences = decision(sums)
    lines = [f"{name}: {_shown(difference)}" for name, difference in differences.items()]
    table.caption = "\n".join(
        [*lines, f"decision rule of claim A (both of the first two exclude 0): {'holds' if holds else 'not shown'}"]
    )
    table.caption_justify = "left"
    return table


def _shown(figure: Estimate | None) -> str:
    return "" if figure is None else f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"
