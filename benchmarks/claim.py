"""Claim B of the small-scale experiment where a GPU is and Spark is not.

`python -m benchmarks.claim export FILE CONFIG [key=value...]` writes what the stages up to `pairs` found (with Spark, no GPU).
`python -m benchmarks.claim run FILE MODEL OUT SEEDS SECONDS` measures, packs, trains and judges from it, by the same functions and
the same training loop, with rows in memory in place of a sealed feed. `entropylong experiment training` is it on one machine.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from entropylong.experiments import training as claim
from entropylong.experiments.training import ARMS, TUNED_ON, HeldOut, Scores
from entropylong.models.causal_lm import CausalLM
from entropylong.packing.document_runs import DocumentRun, pack_document_runs
from entropylong.packing.groups import ContextChunk, Dependency, Group
from entropylong.packing.permute import permute
from entropylong.packing.sequences import PackedSequence, PackRule, Piece, pack_groups
from entropylong.training import loop
from entropylong.training.data.order import epoch_order, rank_share
from entropylong.training.data.reader import FeedRow, FeedState
from entropylong.training.settings import RESULT, TrainSettings
from entropylong.utils.hashing import file_sha256, share_threshold, xxhash64
from entropylong.verification.measuring import Pair, measure
from entropylong.verification.rules.acceptance import ReadingKind, Readings, judge
from entropylong.verification.rules.base import Rule

LENGTH, BATCH, STEPS, ROPE = 16384, 4, 30, 5.0e5
HELD_OUT, ITEMS, DISTANCE, RATES = 0.3, 100, (4096, 12288), (3.0e-4, 1.0e-3)
RULER_LENGTHS, RULER_SAMPLES = (4096, 8192, 16384), 2
BATCH_TOKENS = 65536
RULE = Rule("specific", 0.4, 0.2, math.log(2), 24)


def export(file: Path, config: str, overrides: Sequence[str]) -> None:
    """Roots, chunks and planned pairs of a workspace, as gzipped JSON."""
    from entropylong.core.stage_names import STAGE_NAMES
    from entropylong.models.cache import load
    from entropylong.models.causal_lm import encode_plain
    from entropylong.pipeline.open import open_runner

    stages = STAGE_NAMES[: STAGE_NAMES.index("verify")]
    runner = open_runner(config, list(overrides), None, stages)
    runner.run(stages)
    frames = {name: runner.state.ok_rows(name) for name in ("scored_documents", "chunks", "pairs", "context_ids")}
    pairs = frames["pairs"].select("root_id", "chunk_id", "kind", "anchors").toLocalIterator()
    planned = [[p.root_id, p.chunk_id, p.kind, [[a.position, a.rank, a.score] for a in p.anchors]] for p in pairs]
    named = frames["context_ids"].join(frames["pairs"].select("chunk_id").distinct(), "chunk_id", how="left_semi")
    chunks = {row.chunk_id: list(row.ids) for row in named.select("chunk_id", "ids").collect()}
    material = {
        "seed": runner.config.seed,
        "separator": encode_plain(load(runner.state.context.causal_lm.tokenizer()), runner.config.separator),
        "start": runner.config.model.document_start_id,
        "roots": {r.root_id: [r.doc_id, list(r.input_ids)] for r in frames["scored_documents"].collect()},
        "chunks": chunks,
        "documents": {c.chunk_id: c.doc_id for c in frames["chunks"].select("chunk_id", "doc_id").collect()},
        "pairs": planned,
    }
    file.write_bytes(gzip.compress(json.dumps(material).encode(), 6))
    print(f"{len(material['roots'])} roots, {len(chunks)} chunks, {len(planned)} pairs: {file.stat().st_size / 2**20:.1f} MiB")


class MemoryFeed:
    """Rows of one arm, in the order in which a sealed feed of them would come."""

    arms: dict[str, list[PackedSequence]] = {}  # noqa: RUF012

    def __init__(self, folders: Sequence[Path], weights: Sequence[float], seed: int, batch: int, rank: int, ranks: int) -> None:
        self._name, self._seed, self._batch, self._share = folders[0].name, seed, batch, rank_share(batch, rank, ranks)
        self.state = FeedState(seed, 0, (self._name,), (1.0,))

    def __iter__(self) -> Iterator[list[FeedRow]]:
        rows, mine = self.arms[self._name], self._endless()
        while True:
            batch = [next(mine) for _ in range(self._batch)]
            yield [_row(rows[batch[n]]) for n in self._share]

    def _endless(self) -> Iterator[int]:
        epoch = 0
        while True:
            # The name of the order is not the arm's: rows of equal number come at the same time in each arm.
            yield from (int(row) for _, row in epoch_order("claim", [len(self.arms[self._name])], self._seed, epoch))
            epoch += 1


def _row(sequence: PackedSequence) -> FeedRow:
    mask = sequence.loss_mask
    flags = np.ones(LENGTH, np.int32) if mask is None else np.frombuffer(mask, np.uint8).astype(np.int32)
    return FeedRow(
        sequence.sequence_id, sequence.input_ids, flags, np.where(flags, 0, -1).astype(np.int32), np.zeros(LENGTH, np.float32)
    )


def run(file: Path, folder: Path, out: Path, seeds: int, seconds: float) -> None:
    """Measure, pack, tune, train, judge; what is done stands in OUT at any time."""
    began, material = time.monotonic(), json.loads(gzip.decompress(file.read_bytes()))

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    model = CausalLM(folder, "bfloat16", material["start"])
    roots = {root: np.array(ids, np.int32) for root, (_, ids) in material["roots"].items()}
    chunks = {int(chunk): np.array(ids, np.int32) for chunk, ids in material["chunks"].items()}
    if not (cells := file.with_name(cells_of(file))).is_file():
        retrieved_cells = verify(model, material, roots, chunks)
        cells = out / cells_of(file)
        cells.write_bytes(gzip.compress(json.dumps(retrieved_cells).encode()))
    every = json.loads(gzip.decompress(cells.read_bytes()))
    # By document, as pack.held_out does it: what is judged on is neither a root nor a context of what is trained on.
    document_of = {root: doc for root, (doc, _) in material["roots"].items()}
    unseen = {doc: is_held_out(material, doc) for doc in {*document_of.values(), *material["documents"].values()}}
    sides = [(unseen[document_of[cell[0]]], unseen[material["documents"][str(cell[1])]]) for cell in every]
    accepted, ranks, retrieved = sorted_out([c for c, side in zip(every, sides, strict=True) if side == (False, False)])
    judged_on, _, _ = sorted_out([c for c, side in zip(every, sides, strict=True) if side == (True, True)])
    say(f"verified: {len(material['pairs'])} passes, {sum(cell[6] for cell in every)} dependencies")
    kept_roots = {root for root in roots if not unseen[document_of[root]]}
    arms = pack_arms(material, roots, chunks, accepted, ranks, retrieved, kept_roots, model)
    MemoryFeed.arms = arms
    tokens = {arm: sum(s.end - s.start for q in rows for s in q.segments if s.kind != "pad") for arm, rows in arms.items()}
    sizes = {arm: (len(rows), tokens[arm]) for arm, rows in arms.items()}
    say(f"packed, rows and tokens: {sizes}")
    held = hold_out(material, roots, chunks, judged_on, model)
    held = replace(held, keys=claim.find_keys(model, held, BATCH_TOKENS))
    counted = f"{len(held.items)} links, {len(held.plain)} windows, {len(held.answers)} questions"
    say(f"held out: {counted}, {sum(map(len, held.keys))} key tokens")
    results: dict[str, Any] = {
        "tokens": tokens, "rows": {arm: len(rows) for arm, rows in arms.items()}, "items": [i.key for i in held.items],
        "base": asdict(claim.judge(model, held, BATCH_TOKENS)), "runs": {},
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "roots": [len(roots), len(kept_roots)], "dependencies": sum(cell[6] for cell in every),
    }  # fmt: skip
    say(f"base: {summary(Scores(**results['base']))}")
    del model
    torch.cuda.empty_cache()
    loop.Feed = MemoryFeed  # type: ignore[assignment,misc]

    def trained(arm: str, rate: float, seed: int) -> Scores:
        # A rate is chosen by the text of 2K alone.
        held_part = replace(held, items=(), answers={}, keys=()) if arm == TUNED_ON else held
        done = train(folder, arm, rate, seed, material["start"], held_part)
        results["runs"][f"{arm}/{rate:g}/{seed}"] = asdict(done)
        (out / "claim.json").write_text(json.dumps(results))
        say(f"{arm} rate {rate:g} seed {seed}: {summary(done)}")
        return done

    best = min(RATES, key=lambda rate: trained(TUNED_ON, rate, 0).plain_nll)
    results["rate"] = best
    before = time.monotonic()
    for seed in range(seeds):
        # Whole rounds alone can be compared: none is begun that would not end in time.
        if seed and time.monotonic() - began + (time.monotonic() - before) / seed > seconds:
            say(f"no time for seed {seed}")
            break
        for arm in ARMS:
            trained(arm, best, seed)
    report(results)


def cells_of(file: Path) -> str:
    """Where the cells of an export are kept, in OUT, and looked for, beside it: those of another export are not taken."""
    return f"cells-{file_sha256(file)[:12]}.json.gz"


def is_held_out(material: Any, doc_id: str) -> bool:
    """As the column of that name in Spark."""
    return xxhash64(material["seed"], "held_out", doc_id) > share_threshold(1.0 - HELD_OUT)


def summary(scores: Scores) -> str:
    """One line of a model."""
    effect, answers = np.mean(list(scores.effects.values())), np.mean(list(scores.answers.values()))
    return f"effect {effect:.4f}  answers {answers:.3f}  LongPPL {scores.long_ppl:.2f}  NLL at 2K {scores.plain_nll:.4f}"


def verify(model: CausalLM, material: Any, roots: Any, chunks: Any) -> list[Any]:
    """Retrieved cells within the copy limit: root, chunk, position, rank, score, H without it, whether accepted, gain."""
    places: dict[str, list[int]] = {}
    for root, _, _, anchors in material["pairs"]:
        places.setdefault(root, []).extend(p for p, _, _ in anchors)
    at = {root: np.unique(np.array(p, np.int32)) for root, p in places.items()}
    nothing = np.zeros(0, np.int32)
    pairs = [Pair(roots[root], nothing, positions, (root, None, None, None)) for root, positions in at.items()]
    for root, chunk, kind, anchors in material["pairs"]:
        pairs.append(Pair(roots[root], chunks[chunk], np.array([p for p, _, _ in anchors], np.int32), (root, chunk, kind, anchors)))
    base: dict[str, dict[int, tuple[float, float]]] = {}
    cells: dict[str, list[tuple[Any, ...]]] = {}
    for pair, reading in measure(model, pairs, separator_ids=material["separator"], batch_tokens=BATCH_TOKENS):
        root, chunk, kind, anchors = pair.tag
        values = list(zip(pair.positions.tolist(), reading.entropy_with, reading.nll_with, reading.copy_len, strict=True))
        if chunk is None:
            base[root] = {p: (float(h), float(n)) for p, h, n, _ in values}
        else:
            for (p, h, n, copy), (_, rank, score) in zip(values, anchors, strict=True):
                own = (
                    ReadingKind.RETRIEVED
                    if rank is not None
                    else ReadingKind.RANDOM
                    if kind == ReadingKind.RANDOM
                    else ReadingKind.SAME_ROOT
                )
                cells.setdefault(root, []).append((chunk, p, own, rank, score, float(h), float(n), int(copy)))
    hits: list[Any] = []
    for root, rows in sorted(cells.items()):
        chunk, position, kind, rank, score, h_with, n_with, copy = (list(column) for column in zip(*rows, strict=True))
        h, n = (np.array([base[root][p][i] for p in position], np.float64) for i in (0, 1))
        verdicts = judge(Readings(np.array(position, np.int32), np.array(kind, object), h, n, np.array(h_with, np.float64),
                               np.array(n_with, np.float64), np.array(copy, np.int32)), RULE)  # fmt: skip
        for i in range(len(rows)):
            if kind[i] == ReadingKind.RETRIEVED and copy[i] <= RULE.max_copy_tokens:
                accepted, gain = bool(verdicts.accepted[i]), round(float(verdicts.gain[i]), 4)
                hits.append([root, chunk[i], position[i], rank[i], round(score[i], 4), round(float(h[i]), 3), accepted, gain])
    return hits


Ranks = dict[str, dict[int, tuple[int, float]]]


def sorted_out(cells: list[Any]) -> tuple[dict[str, list[Dependency]], Ranks, dict[str, list[Dependency]]]:
    """Accepted dependencies by root; of each retrieved (root, chunk) its best (rank, -score), and the anchors that retrieved it."""
    accepted: dict[str, list[Dependency]] = {}
    ranks: Ranks = {}
    retrieved: dict[str, list[Dependency]] = {}
    for root, chunk, position, rank, score, _, is_accepted, *gain in cells:
        link = Dependency(chunk, position, gain[0] if gain else 1.0, None)
        if is_accepted:
            accepted.setdefault(root, []).append(link)
        place = (rank, -score)
        ranks.setdefault(root, {})[chunk] = min(place, ranks.get(root, {}).get(chunk, place))
        retrieved.setdefault(root, []).append(link)
    return accepted, ranks, retrieved


def pack_arms(
    material: Any, roots: Any, chunks: Any, accepted: Any, ranks: Any, retrieved: Any, kept_roots: set[str], model: CausalLM
) -> dict[str, list[PackedSequence]]:  # fmt: skip
    """Sequences of the arms: spread, no filler; standard has as many tokens as verified."""

    def rule(recipe: str) -> PackRule:
        return PackRule(
            LENGTH,
            "spread",
            "shuffle",
            "none",
            material["seed"],
            recipe,
            tuple(model.prefix),
            tuple(material["separator"]),
            model.pad_id,
            swap=permute if recipe == "permuted" else None,
        )

    def group(root: str, links: Sequence[Dependency]) -> Group:
        of: dict[int, list[Dependency]] = {}
        for link in links:
            of.setdefault(link.chunk_id, []).append(link)
        contexts = tuple(
            ContextChunk(c, chunks[c], max(k.gain for k in own), min(k.position for k in own)) for c, own in sorted(of.items())
        )
        return Group(root, roots[root], contexts, tuple(links))

    def by_rank(root: str) -> list[Dependency]:
        count = len({link.chunk_id for link in accepted[root]})
        chosen = set(sorted(ranks[root], key=lambda c: (ranks[root][c], c))[:count])
        return [link for link in retrieved[root] if link.chunk_id in chosen]

    verified = [group(root, links) for root, links in sorted(accepted.items())]
    arms = {
        "verified": pack_groups(verified, rule("verified")),
        "permuted": pack_groups(verified, rule("permuted")),
        "noverify": pack_groups([group(root, by_rank(root)) for root in sorted(accepted)], rule("noverify")),
    }
    budget = sum(s.end - s.start for q in arms["verified"] for s in q.segments if s.kind != "pad")
    runs, spent = [], 0
    for root in sorted(kept_roots, key=lambda r: (xxhash64("standard", r), r)):
        run = DocumentRun(root, (Piece("root", root, None, roots[root]),)).cut(max(0, budget - spent), 1)
        spent += run.tokens(1) + 1
        runs += [run] if run.pieces else []
    return arms | {TUNED_ON: pack_document_runs(runs, rule(TUNED_ON))}


def hold_out(material: Any, roots: Any, chunks: Any, accepted: Any, model: CausalLM) -> HeldOut:
    """As the experiment holds out, from documents that no arm was packed of."""
    links = []
    for root, own in accepted.items():
        links += [(root, link.chunk_id, link.position) for link in sorted(own, key=lambda k: (-k.gain, k.position))]
    of = {root: (document, roots[root]) for root, (document, _) in material["roots"].items()}
    doc_of = {int(chunk): document for chunk, document in material["documents"].items()}
    items = claim.held_items(links, of, chunks, doc_of, ITEMS, DISTANCE)
    unseen = [ids for document, ids in of.values() if is_held_out(material, document)]
    answers = claim.ruler_answers(model.encode, RULER_LENGTHS, RULER_SAMPLES, 42)
    return HeldOut(tuple(items), claim.windows(unseen, material["separator"]), answers, tuple(material["separator"]))


def train(folder: Path, arm: str, rate: float, seed: int, start: int, held: HeldOut) -> Scores:
    """One run of the product's loop, and what it scores."""
    place = Path("/tmp/claim") / f"{arm}-{rate:g}-{seed}"
    shutil.rmtree(place, ignore_errors=True)  # of another corpus or length: its checkpoint would be taken for this run's
    settings = TrainSettings(
        model=str(folder), feeds=(arm,), weights=(1.0,), folder=str(place), length=LENGTH, batch=BATCH, steps=STEPS,
        learning_rate=rate, final_rate=0.0, warmup=0.2, weight_decay=0.1, clip=1.0, rope_base=ROPE, dtype="bfloat16", seed=seed,
        node_cache="/tmp/cache", checkpoint_activations=False, save_every=STEPS, keep=1, logits_block=4096,
    )  # fmt: skip
    settings.write()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + seed)}
    losses: list[float] = []
    loop.train(settings, lambda figures: losses.append(figures.loss))
    scores = claim.judge(CausalLM(place / RESULT, "bfloat16", start), held, BATCH_TOKENS)
    print(f"        loss {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)
    return scores


def report(results: dict[str, Any]) -> None:
    """The differences, as the decision rule wants them."""
    runs = {name: Scores(**scores) for name, scores in results["runs"].items()}
    seeds = sorted({name.split("/")[2] for name in runs if name.startswith(ARMS[0])})
    by_arm = {arm: [runs[f"{arm}/{results['rate']:g}/{seed}"] for seed in seeds] for arm in ARMS}
    for field, read in (("effects", lambda scores: scores.effects), ("answers", lambda scores: scores.answers)):
        for arm, gap in claim.differences(by_arm, read).items():
            print(field, f"verified - {arm}", gap)


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        run(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))
