"""What `entropylong compare` puts side by side: of each run the figures of its data and its evaluations. Pure Python.

In: `[NAME=]PLACE` words. Out: a `Run` each. Below a place every figures.json and scores.json counts, but for MLflow's copies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entropylong.errors import ComparisonError, UsageError
from entropylong.evaluation.benchmarks import comparisons
from entropylong.evaluation.benchmarks.record import Benchmark
from entropylong.evaluation.results import ITEMS, SCORES
from entropylong.pipeline.metrics.names import FIGURES
from entropylong.reporting.comparison.paired import Answered
from entropylong.utils.hashing import digest


@dataclass(frozen=True)
class Evaluation:
    """A model on a benchmark.

    Attributes:
        folders: it was read from; of RULER there may be several.
        facts: what its scores depend on.
        figures: scores by name.
        scores: in detail, as the benchmark keeps them.
        questions: each one's score.
    """

    folders: tuple[Path, ...]
    facts: Mapping[str, Any]
    figures: Mapping[str, float]
    scores: Sequence[Mapping[str, Any]]
    questions: Mapping[str, Answered]


@dataclass(frozen=True)
class Data:
    """A run of the pipeline: what its figures are of, and the figures."""

    folder: Path
    facts: Mapping[str, Any]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """What is in one column.

    Attributes:
        name: what it is called.
        places: where it was looked for.
        data: figures of its data, if there are some.
        evaluations: by benchmark.
        left_out: other benchmarks it has, which are not compared.
    """

    name: str
    places: tuple[Path, ...]
    data: Data | None
    evaluations: Mapping[str, Evaluation]
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of its name, its places and all that is shown of it."""
        data = None if self.data is None else [dict(self.data.facts), dict(self.data.figures)]
        evaluations = {name: [dict(e.facts), dict(e.figures), {k: vars(a) for k, a in e.questions.items()}]
                       for name, e in self.evaluations.items()}  # fmt: skip
        return digest([self.name, [str(place) for place in self.places], data, evaluations])


def collect(words: Sequence[str]) -> list[Run]:
    """Runs to compare, in their order.

    Args:
        words: `[NAME=]PLACE`; a place is a folder of results, or one above several. Places of one name are one run.

    Raises:
        UsageError: fewer than two, or no such folder.
        ComparisonError: a run's places hold no result, a damaged one or several of a kind; or nothing is in two of them.
    """
    named: dict[str, list[Path]] = {}
    for word in words:
        name, place = _named(word)
        named.setdefault(name, []).append(place)
    if len(named) < 2:
        raise UsageError(f"{len(named)} run given, and nothing to compare it with; give two or more folders of results")
    runs = [_run(name, places) for name, places in named.items()]
    kinds = [{*run.evaluations, *(["data figures"] if run.data else [])} for run in runs]
    if not any(sum(kind in own for own in kinds) > 1 for kind in set().union(*kinds)):
        text = "; ".join(f"{run.name} has {', '.join(sorted({*own, *run.left_out}))}" for run, own in zip(runs, kinds, strict=True))
        raise ComparisonError(f"nothing to compare, no two runs have figures or one of {', '.join(comparisons())}: {text}")
    return runs


def _named(word: str) -> tuple[str, Path]:
    name, separator, place = word.partition("=")
    if separator and name and place and not Path(word).is_dir():
        return name, Path(place)
    return word.rstrip("/") or word, Path(word)


def _run(name: str, places: Sequence[Path]) -> Run:
    for place in places:
        if not place.is_dir():
            raise UsageError(f"{place}: no such folder; give one of results, or one above them, like a workspace")
    searched = ", ".join(map(str, places))
    files = sorted({file for own in places for file in _files(own)})
    if not files:
        raise ComparisonError(
            f"{searched}: holds no {FIGURES} of a pipeline run and no {SCORES} of an evaluation; run or evaluate there first"
        )
    data = [_data(file) for file in files if file.name == FIGURES]
    if len(data) > 1:
        raise _several(searched, "figures of data", {d.folder: d.facts for d in data}, ("recipe", "alpha", "epsilon", "layout"))
    by_benchmark: dict[str, list[Evaluation]] = {}
    for file in files:
        if file.name == SCORES:
            evaluation = _evaluation(file)
            by_benchmark.setdefault(str(evaluation.facts["benchmark"]), []).append(evaluation)
    evaluations = {
        key: _one(searched, benchmark, comparison.parts, by_benchmark[key])
        for key, (benchmark, comparison) in comparisons().items()
        if key in by_benchmark
    }
    return Run(name, tuple(places), data[0] if data else None, evaluations, tuple(sorted(by_benchmark.keys() - evaluations.keys())))


def _files(place: Path) -> Iterator[Path]:
    """Results at or below a place. Tables are not searched; MLflow's copies (in folders named artifacts) are no second result."""
    for folder, below, names in os.walk(place):
        below[:] = [] if "_delta_log" in below else [name for name in below if name != "artifacts" and not name.startswith(".")]
        yield from (Path(folder) / name for name in names if name in (FIGURES, SCORES))


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise ComparisonError(
            f"{file}: not there, so models cannot be paired; evaluate again, which asks nothing that was answered"
        ) from None
    except (OSError, ValueError):
        raise ComparisonError(f"{file}: not readable as JSON; remove its folder, and run or evaluate again") from None


def _data(file: Path) -> Data:
    record = _read(file)
    try:
        return Data(file.parent, dict(record["facts"]), {name: float(value) for name, value in record["figures"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ComparisonError(f"{file}: holds no figures of a pipeline run; remove it, and run again") from None


def _evaluation(file: Path) -> Evaluation:
    record, items = _read(file), _read(file.with_name(ITEMS))
    try:
        facts = dict(record["facts"])
        entry = comparisons().get(facts["benchmark"])
        prompts = [facts[name] for name in entry[1].asked] if entry else []
        questions = {key: Answered(float(value), float(weight), _asked(prompts, key)) for key, (value, weight) in items.items()}
        figures = {name: float(value) for name, value in record["figures"].items()}
        return Evaluation((file.parent,), facts, figures, list(record["scores"]), questions)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ComparisonError(f"{file}: holds no scores of an evaluation; remove its folder, and evaluate again") from None


def _asked(facts: Sequence[Any], key: str) -> str:
    """Hash what was asked under a key. A dictionary says it of each task and length, so that these pair whatever else was asked."""
    return digest([fact[key.rpartition("/")[0]] if isinstance(fact, dict) else fact for fact in facts])


def _one(place: str, benchmark: Benchmark, parts: Sequence[str], evaluations: Sequence[Evaluation]) -> Evaluation:
    """The result of a benchmark; results of one model that differ in these parts only, as RULER's lengths and tasks, are one."""
    kinds = {digest({k: v for k, v in e.facts.items() if k not in parts}) for e in evaluations}
    questions: dict[str, Answered] = {}
    for evaluation in evaluations:
        questions |= evaluation.questions
    is_one = bool(parts) and len(kinds) == 1 and len(questions) == sum(len(e.questions) for e in evaluations)
    if len(evaluations) > 1 and not is_one:
        names = ("model", "dtype", "samples", "length", "lengths")
        raise _several(place, benchmark.title, {e.folders[0]: e.facts for e in evaluations}, names)
    facts, figures = dict(evaluations[0].facts), dict(evaluations[0].figures)
    for other in evaluations[1:]:
        figures |= other.figures
        facts |= {name: _joined(facts[name], other.facts[name]) for name in parts if facts.get(name) != other.facts.get(name)}
    folders = tuple(folder for evaluation in evaluations for folder in evaluation.folders)
    return Evaluation(folders, facts, figures, [score for e in evaluations for score in e.scores], questions)


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return first | second
    every = [*(first if isinstance(first, list) else [first]), *(second if isinstance(second, list) else [second])]
    return list(dict.fromkeys(every))


def _several(place: str, kind: str, by_folder: Mapping[Path, Mapping[str, Any]], names: Sequence[str]) -> ComparisonError:
    def what(facts: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {facts[name]}" for name in names if name in facts)

    listed = "; ".join(f"{folder} ({what(facts)})" for folder, facts in by_folder.items())
    return ComparisonError(f"{place}: {len(by_folder)} {kind} results below it; give one of them: {listed}")
