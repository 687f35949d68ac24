"""The figures of a run: what was found, what passed, what passed by chance, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.table import Table

from entropylong.corpus.selection import has_canaries, is_canary
from entropylong.corpus.stage import CHUNK, INGEST
from entropylong.entropy.stage import ANCHOR, SCORE
from entropylong.packing.recipes import recipe_of
from entropylong.packing.recipes.base import GroupedRecipe
from entropylong.packing.stage import PACK
from entropylong.pipeline.metrics.names import BANDS, FIGURES, lines
from entropylong.pipeline.steps import step_writing
from entropylong.retrieval.stage import SEARCH
from entropylong.storage.frames import local_frame
from entropylong.storage.schemas import ERROR, METRICS, OK
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest
from entropylong.verification.calibration import screen_metrics
from entropylong.verification.pairs_stage import PLAN_PAIRS
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind
from entropylong.verification.stage import VERIFY, selection_of

if TYPE_CHECKING:
    from entropylong.config import Config
    from entropylong.core.context import Frames
    from entropylong.core.results import RunResult
    from entropylong.pipeline.state import PipelineState


# Figures by the stage that they belong to, or by RUN.
ByStage = dict[str, dict[str, float]]
RUN = "run"


def compute_metrics(state: PipelineState, result: RunResult) -> dict[str, float]:
    """All figures of the current fingerprints, by name. A rate over nothing is left out, never a made-up number."""
    return {name: value for figures in metrics_by_stage(state, result).values() for name, value in figures.items()}


def metrics_by_stage(state: PipelineState, result: RunResult) -> ByStage:
    """Compute all figures of the current fingerprints, by the stage that each belongs to and by name."""
    readings = state.readings()
    parts: list[ByStage] = []
    if has_canaries(state.config):
        parts.append(_canaries(state, readings))
        readings = readings.where(~is_canary(F.col("root_id")))
    of_verify = {**_rates(readings), **_dependencies(readings), **_screen(state)}
    corpus = _corpus(state)
    cost = _cost(state, result, corpus[SCORE.name]["root_tokens"])
    parts += [corpus, {VERIFY.name: of_verify, PACK.name: _sequences(state)}, cost, _errors(state)]
    by_stage: ByStage = {}
    for part in parts:
        for stage, figures in part.items():
            by_stage.setdefault(stage, {}).update({name: float(value) for name, value in figures.items() if value is not None})
    return by_stage


def _one(frame: DataFrame) -> dict[str, float]:
    return dict(frame.collect()[0].asDict())


def _corpus(state: PipelineState) -> ByStage:
    frames = state.frames(PACK)
    roots = _one(frames["scored_documents"].agg(F.count(F.lit(1)).alias("roots"), F.sum("n_tokens").alias("root_tokens")))
    per_root = frames["anchors"].select(F.size("anchors").alias("n"))
    anchors = _one(per_root.agg(F.sum("n").alias("anchors"), F.avg("n").alias("anchors_a_root")))
    candidates = _current_candidates(frames).select(F.sum(F.size("hits")).alias("candidates"))
    pairs = frames["pairs"].agg(
        F.count(F.lit(1)).alias("pairs"), F.count_if(F.col("kind") == ReadingKind.RANDOM).alias("pairs_random")
    )
    gains = frames["gains"].join(frames["pairs"].select("pair_id").distinct(), "pair_id", how="left_semi")
    passes = gains.agg(F.count(F.lit(1)).alias("passes"))
    return {
        INGEST.name: {"documents": _ok_rows(state, "documents")},
        CHUNK.name: {"chunks": _ok_rows(state, "chunks")},
        SCORE.name: roots,
        ANCHOR.name: anchors,
        SEARCH.name: _one(candidates),
        PLAN_PAIRS.name: _one(pairs),
        VERIFY.name: _one(passes),
    }


def _ok_rows(state: PipelineState, table: str) -> int:
    if table in state.outcomes:
        return state.outcomes[table].get((OK, None), 0)
    return state.ok_rows(table).count()


def _current_candidates(frames: Frames) -> DataFrame:
    """Those of the current anchors: beside them stand hits of other anchors that a sweep searched for."""
    anchors = frames["anchors"].select("root_id", F.explode("anchors.position").alias("position"))
    return frames["candidates"].join(anchors, ["root_id", "position"], how="left_semi")


def _rates(readings: DataFrame) -> dict[str, float]:
    """Pass rates of candidates and controls under every rule, FDR, and by position band."""
    totals = [F.count_if(F.col("kind") == kind).alias(kind) for kind in ReadingKind]
    passed = [
        F.count_if((F.col("kind") == kind) & F.col(record.column)).alias(f"{kind}_{rule}")
        for rule, record in RULES.items()
        for kind in ReadingKind
    ]
    places = [F.when((F.col("position") >= low) & (F.col("position") < high), name) for name, low, high in BANDS]
    counted = readings.groupBy(F.coalesce(*places).alias("band")).agg(*totals, *passed).collect()
    bands = {row.band: row.asDict() for row in counted}
    nothing = dict.fromkeys([*ReadingKind, *(f"{kind}_{rule}" for rule in RULES for kind in ReadingKind)], 0)
    whole = {name: sum(band[name] for band in bands.values()) for name in nothing}
    figures: dict[str, float] = {f"cells_{kind}": whole[kind] for kind in ReadingKind}
    for rule in RULES:
        for kind in ReadingKind:
            if whole[kind]:
                figures[f"pass_rate_{kind}_{rule}"] = whole[f"{kind}_{rule}"] / whole[kind]
        retrieved, random = (figures.get(f"pass_rate_{kind}_{rule}") for kind in (ReadingKind.RETRIEVED, ReadingKind.RANDOM))
        if retrieved and random is not None:
            figures[f"fdr_{rule}"] = random / retrieved
    for name, _, _ in BANDS:
        band = bands.get(name, nothing)
        for rule in RULES:
            for kind in ReadingKind:
                if band[kind]:
                    figures[f"band_{name}_{kind}_{rule}"] = band[f"{kind}_{rule}"] / band[kind]
        for kind in ReadingKind:
            figures[f"band_{name}_{kind}_cells"] = band[kind]
    return figures


def _canaries(state: PipelineState, readings: DataFrame) -> ByStage:
    """Of planted pairs: how many were retrieved, how many of these were verified, and what share of all verified pairs they are.

    Retrieval is counted by what was retrieved, not by what a budget or a screen let through. A root that is split is one.
    """
    frames = state.frames(PACK)
    of = F.regexp_replace("root_id", ":root.*$", "")
    planted = frames["scored_documents"].where(is_canary(F.col("root_id"))).select(of).distinct().count()
    knows = F.regexp_replace("doc_id", ":fact$", "").alias("knows")
    facts = frames["chunks"].where(is_canary(F.col("doc_id"))).select("chunk_id", knows)
    hits = _current_candidates(frames).where(is_canary(F.col("root_id")))
    matches = hits.select(of.alias("asks"), F.explode("hits.chunk_id").alias("chunk_id")).join(facts, "chunk_id", how="inner")
    retrieved = matches.where("asks = knows").select("asks").distinct().count()
    accepted = (
        readings.where(is_canary(F.col("root_id")) & F.col("accepted")).select("root_id", "chunk_id", of.alias("asks")).distinct()
    )
    is_gold = F.coalesce(F.col("asks") == F.col("knows"), F.lit(False))
    pairs = accepted.join(facts, "chunk_id", how="left").withColumn("gold", F.when(is_gold, F.col("asks")))
    counted = _one(
        pairs.agg(F.countDistinct("gold").alias("found"), F.count("gold").alias("right"), F.count("asks").alias("verified"))
    )
    shares = {
        (SEARCH.name, "canary_recall_retrieval"): (retrieved, planted),
        (VERIFY.name, "canary_recall_verification"): (counted["found"], retrieved),
        (VERIFY.name, "canary_precision"): (counted["right"], counted["verified"]),
    }
    figures: ByStage = {INGEST.name: {"canary_planted": planted}, SEARCH.name: {}, VERIFY.name: {}}
    for (stage, name), (part, whole) in shares.items():
        if whole:
            figures[stage][name] = part / whole
    return figures


def _dependencies(readings: DataFrame) -> dict[str, float]:
    accepted = readings.where("accepted")
    figures = _one(
        accepted.agg(
            F.count(F.lit(1)).alias("dependencies"),
            F.countDistinct("root_id").alias("roots_with_dependency"),
            F.avg("gain").alias("gain_mean"),
            F.avg("excess_gain").alias("excess_gain_mean"),
        )
    )
    if figures["roots_with_dependency"]:
        figures["dependencies_a_root"] = figures["dependencies"] / figures["roots_with_dependency"]
    return figures


def _sequences(state: PipelineState) -> dict[str, float]:
    table = state.ok_rows("sequences")
    distances = table.select(F.explode("dependencies.distance").alias("d"))
    spans = table.select(F.size("input_ids").alias("n"), F.explode("segments").alias("s"))
    tokens = _one(table.agg(F.count(F.lit(1)).alias("sequences"), F.sum(F.size("input_ids")).alias("sequence_tokens")))
    summed = (F.sum(F.col("s.end") - F.col("s.start")).alias("tokens"), F.countDistinct("s.root_id").alias("roots"))
    kinds = spans.groupBy("s.kind").agg(*summed).collect()
    by_kind = {row.kind: row.tokens for row in kinds}
    unique = spans.where("s.kind IN ('context', 'filler', 'root')").select(
        F.coalesce(F.col("s.chunk_id").cast("string"), F.col("s.root_id")).alias("piece"),
        (F.col("s.end") - F.col("s.start")).alias("tokens"),
    )
    unique_tokens = unique.groupBy("piece").agg(F.max("tokens").alias("tokens")).agg(F.sum("tokens")).collect()[0][0]
    figures = dict(tokens)
    if total := tokens["sequence_tokens"]:
        figures["filler_share"] = by_kind.get("filler", 0) / total
        figures["padding_share"] = by_kind.get("pad", 0) / total
        figures["unique_token_share"] = (unique_tokens or 0) / total
        roots = sum(row.roots for row in kinds if row.kind == "root")
        if roots and isinstance(recipe_of(state.config), GroupedRecipe):
            figures["group_tokens"] = (by_kind["root"] + by_kind.get("context", 0)) / roots
        figures |= _one(
            distances.agg(
                F.count(F.lit(1)).alias("packed_dependencies"),
                F.percentile("d", F.lit(0.5)).alias("distance_median"),
                F.percentile("d", F.lit(0.9)).alias("distance_p90"),
            )
        )
    return figures


def _cost(state: PipelineState, result: RunResult, root_tokens: float | None) -> ByStage:
    """Seconds of each stage that ran, how busy its slots were, and tokens a second where tokens are what it works on."""
    by_stage: ByStage = {}
    for done in result.steps:
        table, figures = done.step.writes, by_stage.setdefault(done.step.name, {})
        figures |= {f"seconds_{table}": done.seconds, f"keys_{table}": done.keys}
        figures |= {f"{name}_{table}": value for name, value in done.usage.items()}
    frames = state.frames(PACK)
    # What a budget or a screen left out was not forwarded.
    measured = frames["gains"].join(frames["pairs"].select("pair_id").distinct(), "pair_id", "left_semi")
    (pair_tokens,) = measured.agg(F.sum(F.array_max("readings.position") + 1 + F.col("n_context_tokens"))).collect()[0]
    forwarded = {"scored_documents": root_tokens, "gains": pair_tokens}
    # Of a run that was resumed, or that adds to an older one, only its own share of the tokens counts.
    shares = {done.step.writes: done.keys / done.keys_in for done in result.steps if done.keys_in}
    for table, number in forwarded.items():
        figures, tokens = by_stage.setdefault(step_writing(table).name, {}), number or 0
        figures[f"forwarded_tokens_{table}"] = tokens
        if seconds := figures.get(f"seconds_{table}"):
            figures[f"tokens_per_second_{table}"] = tokens * shares.get(table, 0.0) / seconds
    return by_stage


def _screen(state: PipelineState) -> Mapping[str, float]:
    """Recall and saving of a screen, if one is in force."""
    selection = selection_of(state.context)
    if selection is None or selection.screen is None:
        return {}
    rows = state.rows("gains").where(F.col("selection") == selection.digest)
    return screen_metrics(rows, state.readings(), selection.screen)


def _errors(state: PipelineState) -> ByStage:
    figures: ByStage = {RUN: {"error_rows": 0.0}}
    for table, outcomes in state.outcomes.items():
        of_stage = figures.setdefault(step_writing(table).name, {})
        for (outcome, code), number in outcomes.items():
            if code is not None:
                of_stage[f"{outcome}_{table}_{code}"] = number
            if outcome == ERROR:
                figures[RUN]["error_rows"] += number
    return figures


def write_metrics(state: PipelineState, run_id: str, by_stage: ByStage) -> dict[str, float]:
    """Write one row a figure into `metrics`, under the fingerprint of the sequences, and the file of them.

    Returns:
        The figures by name.
    """
    now = datetime.now(UTC)
    rows = [
        {"run_id": run_id, "stage": stage, "name": name, "value": value, "at": now, "outcome": OK}
        for stage, figures in by_stage.items()
        for name, value in sorted(figures.items())
    ]
    frame = local_frame(state.spark, rows, METRICS.struct)
    value = state.fingerprint("sequences") or digest(run_id)
    state.store.append(METRICS.name, frame, value)
    by_name = {name: value for figures in by_stage.values() for name, value in figures.items()}
    save_metrics(state, by_name)
    return by_name


def save_metrics(state: PipelineState, figures: Mapping[str, float]) -> None:
    """A file of the figures of the current sequences and of what they are of, by which runs are compared."""
    value = state.fingerprint("sequences")
    if value is None:
        return
    file = state.workspace.metrics(state.config.pack.recipe, value) / FIGURES
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"facts": facts_of(state.config, value), "figures": dict(sorted(figures.items()))}
    write_whole(file, json.dumps(record, indent=1))


def facts_of(config: Config, value: str | None) -> dict[str, Any]:
    """What figures are of: the settings that people compare runs by, and the fingerprint of the sequences."""
    return {"recipe": config.pack.recipe, "fingerprint": value, "alpha": config.anchors.alpha, "epsilon": config.accept.epsilon,
            "rule": config.accept.rule, "length": config.pack.length, "layout": config.pack.layout, "order": config.pack.order,
            "model": config.model.name, "encoder": config.encoder.name}  # fmt: skip


def latest_metrics(state: PipelineState) -> dict[str, float]:
    """The figures of the last run that packed the current sequences."""
    return latest_run(state)[1]


def latest_run(state: PipelineState) -> tuple[str, dict[str, float]]:
    """The id of the last run that packed the current sequences ("" where none did), and its figures."""
    value = state.fingerprint("sequences")
    rows = sorted(state.store.read(METRICS.name, value).collect(), key=lambda row: row.at)
    last = rows[-1].run_id if rows else ""
    return last, {row.name: row.value for row in rows if row.run_id == last}


def best_root(state: PipelineState) -> str | None:
    """The packed root with the most dependencies, to look at first."""
    sequences = state.ok_rows("sequences")
    roots = sequences.select(F.explode("dependencies.root_id").alias("root_id")).groupBy("root_id").count()
    first = roots.orderBy(F.desc("count"), "root_id").head()
    return str(first.root_id) if first is not None else None


def metrics_table(figures: Mapping[str, float]) -> Table:
    """The figures people look for first, for the terminal."""
    table = Table(title="EntropyLong: what was found", show_header=True, header_style="bold")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for label, value in lines(figures):
        if value is None:
            table.add_section()
        else:
            table.add_row(label, value)
    return table
