"""Is everything here that a run needs? Each part of the machine is looked at, and what does not serve is told with what to do."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from entropylong.config import Config
from entropylong.errors import EntropyLongError, ModelError, SetupError

if TYPE_CHECKING:
    from rich.table import Table

GB = 1e9
# Below, the environment, a model and the tables of a first run do not fit; the README states the same.
LEAST_MEMORY, LEAST_DISK = 8 * GB, 5 * GB
# What fails at import when a library is half installed or does not fit the machine.
_IMPORTED = ("numpy", "pandas", "pyarrow", "torch", "transformers", "sentence_transformers", "faiss", "pyspark", "delta", "mlflow")
State = Literal["pass", "note", "fix"]


@dataclass(frozen=True)
class Finding:
    """What was found of one part, and, unless it passes, what to do or to know."""

    part: str
    state: State
    found: str
    remedy: str = ""


def examine(config: Config) -> Iterator[Finding]:
    """Each part in turn; none of them raises, and no network is asked but an MLflow server that the config names."""
    parts: tuple[tuple[str, Callable[[Config], Finding]], ...] = (
        ("Python", _python), ("libraries", _libraries), ("Java", _java), ("memory", _memory), ("disk", _disk), ("GPU", _gpu),
        ("models", _models), ("input", _input), ("MLflow", _mlflow), ("Spark and Delta", _spark),
    )  # fmt: skip
    for name, look in parts:
        try:
            yield look(config)
        except EntropyLongError as error:
            yield Finding(name, "fix", "does not serve", str(error))
        except Exception as error:  # whatever a library raises where it does not fit: it is a finding, not our end
            yield Finding(name, "fix", "does not serve", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _python(config: Config) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding(
            "Python", "fix", f"{version} at {sys.executable}", "take Python 3.11 or 3.12: make PYTHON=/path/to/python3.11"
        )
    return Finding("Python", "pass", f"{version} at {sys.executable}")


def _libraries(config: Config) -> Finding:
    """Installed versions against those that the package declares, and whether they can be imported at all."""
    from packaging.requirements import Requirement

    from entropylong.spark.session import on_databricks

    # A Databricks runtime brings its own Spark.
    extra = "" if on_databricks() else "spark"
    problems = []
    for line in importlib.metadata.requires("entropylong") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        have = _version(requirement.name)
        if have is None:
            problems.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(have, prereleases=True):
            problems.append(f"{requirement.name} is {have}, needed is {requirement.specifier}")
    problems += [f"{name} cannot be imported ({reason})" for name in _IMPORTED if (reason := _import_problem(name))]
    own = importlib.metadata.version("entropylong")
    if problems:
        return Finding(
            "libraries", "fix", "; ".join(problems), "install what the lock holds: make setup, or pip install -r a lock file"
        )
    # The Spark of a Databricks runtime is no installed package.
    names = [f"{name} {have}" for name in ("pyspark", "delta-spark", "torch", "transformers") if (have := _version(name))]
    return Finding("libraries", "pass", f"entropylong {own}; {', '.join(names)}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_problem(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # a library may fail in any way at import
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return ""


def _java(config: Config) -> Finding:
    from entropylong.spark.session import check_java, on_databricks

    if on_databricks():
        return Finding("Java", "pass", "the runtime's")
    return Finding("Java", "pass", check_java())


def _memory(config: Config) -> Finding:
    from entropylong.spark.resources import machine_memory

    have = machine_memory()
    size = f"{have / GB:.0f} GB"
    if have < LEAST_MEMORY:
        return Finding(
            "memory", "note", size, "a run with the small models needs 8 GB; set spark.driver_memory=1g and run.batch_tokens=1024"
        )
    return Finding("memory", "pass", size)


def _disk(config: Config) -> Finding:
    places = {"workspace": Path(config.workspace).expanduser().absolute(), "node_cache": config.cache_folder.absolute()}
    disks, problems = [], []
    for key, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        disks.append(f"{key} {place}: {free / GB:.0f} GB free")
        if not there.is_dir() or not os.access(there, os.W_OK):
            problems.append(f"{there} cannot be written: set {key}=DIRECTORY")
        elif free < LEAST_DISK:
            problems.append(f"{key}: free {LEAST_DISK / GB:.0f} GB, or set {key}=DIRECTORY elsewhere")
    return Finding("disk", "fix" if problems else "pass", "; ".join(disks), "; ".join(problems))


def _gpu(config: Config) -> Finding:
    import torch

    if not torch.cuda.is_available():
        built = " (this torch is built for CPUs alone)" if torch.version.cuda is None else ""
        return Finding("GPU", "note", f"none{built}", "small models on small corpora run without; large ones need GPUs")
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Finding("GPU", "pass", ", ".join(f"{card.name} {card.total_memory / GB:.0f} GB" for card in cards))


def _models(config: Config) -> Finding:
    """Those that the config names, where they are; nothing is downloaded."""
    from huggingface_hub import constants

    from entropylong.models.prepare import ModelSpec, is_hub_id, prepare
    from entropylong.pipeline.preflight import prepare_models

    constants.HF_HUB_OFFLINE = True  # the variable of that name is read at import, which the look at the libraries was
    absent = []
    for section in (config.model, config.encoder):
        try:
            prepare(ModelSpec(section.name, section.revision).absolute(), config.cache_folder)
        except ModelError as error:
            if not is_hub_id(section.name):
                raise
            absent.append(section.name if "cannot be downloaded" in str(error) else str(error))
    if absent:
        return Finding(
            "models", "note", f"not on this machine yet: {', '.join(absent)}", "a run fetches them; without network give folders"
        )
    specs, prepared = prepare_models(config)
    return Finding("models", "pass", "; ".join(f"{specs[key].name} in {prepared[key].path}" for key in specs))


def _input(config: Config) -> Finding:
    from entropylong.pipeline.preflight import check_sources

    if not config.sources:
        return Finding("input", "note", "the config names no source", "give --input PATH_OR_TABLE, or: entropylong init PATH")
    check_sources(config)
    sources = [f"{name}: {source.kind} {source.path or source.table}" for name, source in config.sources.items()]
    return Finding("input", "pass", "; ".join(sources))


def _mlflow(config: Config) -> Finding:
    from entropylong.tracking.mlflow import redact

    uri = config.tracking.uri
    if uri.startswith("sqlite:///"):
        return _sqlite(uri)
    if not uri.startswith("http"):
        return Finding("MLflow", "note", redact(uri), "this kind of store is not looked at here")
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
    except requests.RequestException as error:
        raise SetupError(f"{redact(uri)} does not answer ({type(error).__name__}); start it, or mend tracking.uri") from None
    return Finding("MLflow", "pass", redact(uri))


def _sqlite(uri: str) -> Finding:
    """A store in a file is made by the first run; one that is there must be a database."""
    import sqlite3
    from contextlib import closing

    file = Path(uri.removeprefix("sqlite:///")).absolute()
    if not file.exists():
        return Finding("MLflow", "pass", f"{uri}, which the first run makes")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise SetupError(f"{file} is not a database that can be read ({error}); move it away, or set tracking.uri") from None
    return Finding("MLflow", "pass", uri)


def _spark(config: Config) -> Finding:
    """A session as a run has it; a small Delta table written by a Python worker and read back."""
    from entropylong.spark.session import on_databricks, session

    spark = session(config)
    summary = f"Spark {spark.version} at {spark.sparkContext.master}"
    if on_databricks():
        return Finding("Spark and Delta", "pass", summary)
    with tempfile.TemporaryDirectory(dir=_shared(config)) as folder:
        rows = spark.range(4).mapInArrow(lambda batches: batches, "id BIGINT")
        rows.write.format("delta").save(f"file://{folder}/table")
        if spark.read.format("delta").load(f"file://{folder}/table").count() != 4:
            raise SetupError("a Delta table of four rows came back with another number of rows")
    delta = importlib.metadata.version("delta-spark")
    return Finding("Spark and Delta", "pass", f"{summary}, Delta {delta}; a table was written by a Python worker and read back")


def _shared(config: Config) -> Path:
    """Where executors can write too: the workspace, or, before there is one, the first folder above it."""
    place = Path(config.workspace).expanduser().absolute()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def findings_table(findings: list[Finding]) -> Table:
    """For the terminal."""
    from rich.markup import escape
    from rich.table import Table

    colours = {"pass": "green", "note": "yellow", "fix": "bold red"}
    table = Table(title="entropylong doctor")
    for column in ("part", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for one in findings:
        table.add_row(one.part, f"[{colours[one.state]}]{one.state}[/]", escape(one.found), escape(one.remedy))
    return table
