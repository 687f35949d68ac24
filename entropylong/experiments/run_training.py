"""`entropylong experiment training`: arms packed from one corpus, trained in pairs, judged on held-out links. Spark and torch.

Every step leaves its result in the workspace, so the same command goes on with an experiment that was broken.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.config import Config
from entropylong.core.stage_names import MEASURED
from entropylong.corpus.selection import has_canaries, is_canary, is_held_out
from entropylong.errors import ConfigError, EvaluationError
from entropylong.evaluation.results import Result
from entropylong.experiments import training as claim
from entropylong.experiments.paired import paired_chunks
from entropylong.experiments.training import ARMS, TUNED_ON, Difference, HeldOut, Scores
from entropylong.models.causal_lm import CausalLM, encode_plain
from entropylong.pipeline.steps import step_writing
from entropylong.training.run import run_training, trained_model
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.utils.log import muted
from entropylong.verification.planning import PairKind

if TYPE_CHECKING:
    from entropylong.pipeline.runner import Runner

logger = logging.getLogger(__name__)

_SCORES = "experiment.json"
Open = Callable[[Config], "Runner"]


def arm_config(config: Config, recipe: str, rate: float, seed: int) -> Config:
    """An arm's training: its recipe, rate and order of rows."""
    return config.with_keys(
        pack={"recipe": recipe, "layout": "spread", "filler": "none"}, train={"learning_rate": rate, "seed": seed}
    )


def run_experiment(config: Config, open_: Open, spark: SparkSession) -> tuple[Result, Table]:
    """Measure, pack the arms, tune on standard, train every arm with every seed, judge.

    Args:
        config: its `experiment` section says how much.
        open_: a config -> a runner in its workspace.
        spark: the session, for training.

    Raises:
        ConfigError: nothing is held out, or arms would be trained on something else than their sequences.
        EvaluationError: no link between held-out documents: no candidate, which is known before any is verified, or none verified.
    """
    if not config.pack.held_out:
        raise ConfigError("experiment training: key 'pack.held_out' is 0; hold out a share of the documents, say pack.held_out=0.3")
    if config.train.data or config.train.mode != "pretrain":
        raise ConfigError("experiment training: arms train on their own sequences; leave out keys 'train.data' and 'train.mode'")
    runner = open_(config)
    runner.run(MEASURED[:-1])
    logger.info(f"held out: {_require_pairs(config, runner):,} candidates between documents of which nothing is packed")
    runner.run(MEASURED[-1:])
    held = hold_out(config, runner)
    logger.info(f"held out: {len(held.items)} links, {len(held.plain)} windows of text, {len(held.answers)} questions")
    # One rate alone needs no tuning.
    tunes = len(config.experiment.learning_rates) > 1
    for recipe in (TUNED_ON, *ARMS) if tunes else ARMS:
        open_(arm_config(config, recipe, 0.0, 0)).run(["pack"])
    dtype, start_id = config.train.dtype, config.model.document_start_id
    base = CausalLM(trained_model(config)[1].path, dtype, start_id)
    held = replace(held, keys=claim.find_keys(base, held, config.run.batch_tokens, **_key_rule(config)))
    of_base = claim.judge(base, held, config.run.batch_tokens)
    del base

    def trained(recipe: str, rate: float, seed: int) -> Scores:
        own = arm_config(config, recipe, rate, seed)
        logger.info(f"{recipe}, rate {rate:g}, seed {seed}")
        with muted("training"):
            folder = run_training(own, spark).result
        return _judged(folder, held, own)

    best = config.experiment.learning_rates[0]
    if tunes:
        best = min(config.experiment.learning_rates, key=lambda rate: trained(TUNED_ON, rate, 0).plain_nll)
        logger.info(
            f"learning rate {best:g}: the best of {', '.join(f'{r:g}' for r in config.experiment.learning_rates)} on {TUNED_ON}"
        )
    scores = {arm: [trained(arm, best, seed) for seed in range(config.experiment.seeds)] for arm in ARMS}
    return _result(config, runner, held, best, of_base, scores), experiment_table(held, of_base, scores)


def _key_rule(config: Config) -> dict[str, int]:
    """LongPPL's short context is 4,096 tokens; where contexts are nearer than that, it is as short as they are near."""
    near = config.experiment.distance[0]
    return {} if near >= 4096 else {"window": near, "stride": max(1, near // 4)}


def _unseen(config: Config) -> Column:
    """Of `doc_id`: whether nothing of the document is packed in any arm."""
    unseen = is_held_out(config, F.col("doc_id"))
    return unseen & ~is_canary(F.col("doc_id")) if has_canaries(config) else unseen


def _require_pairs(config: Config, runner: Runner) -> int:
    """Candidates between held-out documents: what verification, which is nearly all of the cost, can find links among."""
    frames = runner.state.frames(step_writing("sequences"))
    roots, chunks = (frames[name].where(_unseen(config)) for name in ("scored_documents", "chunks"))
    pairs = frames["pairs"].where(F.col("kind") == PairKind.CANDIDATE).join(roots, "root_id", how="left_semi")
    count = pairs.join(chunks, "chunk_id", how="left_semi").count()
    if not count:
        raise EvaluationError(
            f"experiment training: no candidate of the {roots.count()} held-out roots is of a held-out document: there is nothing "
            "to judge on; give more roots or more corpus, or raise pack.held_out"
        )
    return count


def hold_out(config: Config, runner: Runner) -> HeldOut:
    """What the models are judged on: verified links between documents of which nothing is packed.

    Args:
        config: of the experiment.
        runner: in its workspace, verification finished.
    """
    frames = runner.state.frames(step_writing("sequences"))
    unseen = _unseen(config)
    scored = frames["scored_documents"].where(unseen).select("root_id", "doc_id", "input_ids")
    unpacked = frames["chunks"].where(unseen).select("chunk_id")
    roots = {row.root_id: (row.doc_id, np.array(row.input_ids, np.int32)) for row in scored.collect()}
    readings = runner.state.readings().where("accepted").join(scored.select("root_id"), "root_id", how="left_semi")
    accepted = readings.join(unpacked, "chunk_id", how="left_semi").orderBy(F.desc("gain"), "position").collect()
    chunks, doc_of = paired_chunks(frames)
    links = [(reading.root_id, reading.chunk_id, reading.position) for reading in accepted]
    items = claim.held_items(links, roots, chunks, doc_of, config.experiment.items, config.experiment.distance)
    separator = tuple(encode_plain(_words(runner), config.separator))
    if not items:
        raise EvaluationError(
            f"experiment training: {len(roots)} held-out roots have {len(links)} verified links to held-out documents, too few "
            "to compare; give more roots, or raise pack.held_out"
        )
    encode = lambda text: encode_plain(_words(runner), text)  # noqa: E731
    answers = claim.ruler_answers(encode, config.experiment.lengths, config.experiment.samples, config.seed)
    return HeldOut(tuple(items), claim.windows([ids for _, ids in roots.values()], separator), answers, separator)


def _words(runner: Runner) -> Any:
    from entropylong.models.cache import load

    return load(runner.state.context.causal_lm.tokenizer())


def _judged(folder: Path, held: HeldOut, config: Config) -> Scores:
    """Scores of a trained model, kept beside it."""
    file, identity = folder.parent / _SCORES, held.identity
    if file.is_file() and (record := json.loads(file.read_text()))["held_out"] == identity:
        return Scores(**record["scores"])
    model = CausalLM(folder, config.train.dtype, config.model.document_start_id)
    scores = claim.judge(model, held, config.run.batch_tokens)
    write_whole(file, json.dumps({"held_out": identity, "scores": asdict(scores)}))
    return scores


def _result(config: Config, runner: Runner, held: HeldOut, rate: float, base: Scores, scores: dict[str, list[Scores]]) -> Result:
    primary = claim.differences(scores, lambda s: s.effects)
    figures = {
        **{f"effect.{arm}": float(np.mean([list(s.effects.values()) for s in runs])) for arm, runs in scores.items()},
        **{f"plain_nll.{arm}": float(np.mean([s.plain_nll for s in runs])) for arm, runs in scores.items()},
        **{f"difference.{arm}": d.value for arm, d in primary.items()},
        "effect.base": float(np.mean(list(base.effects.values()))),
        "plain_nll.base": base.plain_nll,
        "claim_holds": float(claim.claim_holds(primary)),
    }
    facts = {
        "benchmark": "experiment_training", "model": config.model.name, "model_hash": runner.state.context.causal_lm.fingerprint,
        "learning_rate": rate, "items": len(held.items), "gains": runner.state.fingerprint("gains"), "length": config.pack.length,
        # The arms are packed of what these are packed of; what they are judged on is chosen among it.
        "sequences": runner.state.fingerprint("sequences"), "held_out": held.identity,
        **{key: value for key, value in config.semantic("train").items() if key not in ("train.learning_rate", "train.seed")},
        **config.experiment.model_dump(mode="json"),
    }  # fmt: skip
    folder = Path(config.workspace) / "experiments" / f"training-{digest(facts)}"
    folder.mkdir(parents=True, exist_ok=True)
    detail = {"base": asdict(base), "arms": {arm: [asdict(s) for s in runs] for arm, runs in scores.items()},
              "primary": {arm: asdict(d) for arm, d in primary.items()}}  # fmt: skip
    return Result(folder, facts, figures).kept([detail], {})


def experiment_table(held: HeldOut, base: Scores, scores: dict[str, list[Scores]]) -> Table:
    """Arms side by side, the differences, and what the rule says."""
    table = Table(title="Claim B: training on verified links helps", title_justify="left", box=SIMPLE_HEAD)
    lengths = sorted({key.partition("/")[2].partition("/")[0] for key in held.answers}, key=int)
    for heading in (
        "model",
        "runs",
        "NLL(permuted) - NLL(gold)",
        *(f"log p of answers, {n}" for n in lengths),
        "LongPPL",
        "NLL at 2K",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, runs in {"before training": [base], **scores}.items():
        by_length = [np.mean([v for s in runs for k, v in s.answers.items() if k.split("/")[1] == n]) for n in lengths]
        row = [np.mean([list(s.effects.values()) for s in runs]), *by_length, np.mean([s.long_ppl for s in runs]),
               np.mean([s.plain_nll for s in runs])]  # fmt: skip
        table.add_row(name, str(len(runs)), *("" if np.isnan(value) else f"{value:.3f}" for value in row))
    primary = claim.differences(scores, lambda s: s.effects)
    secondary = claim.differences(scores, lambda s: s.answers)
    lines = [f"verified - {arm}: {_shown(d)} nats a token over {len(held.items)} links; answers {_shown(secondary[arm])}"
             for arm, d in primary.items()]  # fmt: skip
    says = "holds" if claim.claim_holds(primary) else "not shown"
    table.caption = "\n".join([*lines, f"decision rule of claim B (both intervals of the first figure above 0): {says}"])
    table.caption_justify = "left"
    return table


def _shown(difference: Difference) -> str:
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
