"""`entropylong train`: from a config to sealed feeds, settings, ranks, and the model. Driver side."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from pyspark.sql import SparkSession
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from entropylong.config import Config
from entropylong.config.schema import TrainConfig
from entropylong.errors import ConfigError, EntropyLongError, ModelError, SetupError, WorkspaceError
from entropylong.models.cache import WorkerModel
from entropylong.models.prepare import ModelSpec, PreparedModel, prepare
from entropylong.models.shape import shape_of
from entropylong.models.window import window_of
from entropylong.pipeline.preflight import check_tokenizer
from entropylong.storage.workspace import Workspace
from entropylong.training.data.sources import Feeds, SealedFeed
from entropylong.training.describe import model_of
from entropylong.training.launch import default_ranks, launch, rank_threads
from entropylong.training.model import check_trainable
from entropylong.training.settings import RESULT, TrainSettings, check_ranks
from entropylong.training.steps import StepMetrics, is_whole
from entropylong.training.track import TrainingRun
from entropylong.utils.hashing import digest
from entropylong.utils.locks import locked
from entropylong.utils.log import is_shown

logger = logging.getLogger(__name__)

VERSION = 1
# The section whose semantic keys decide what a run gives.
IDENTITY = "train"
# They say what the feeds are and which model it is: the hashes of both stand in their place.
_RESOLVED = ("train.data", "train.model", "train.mode", "train.chat_template", "train.loss_on", "train.seed")


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Attributes:
        settings: of its ranks, in `folder/settings.json`.
        file: that file.
        feeds: what it trains on.
        ranks: processes.
        model: the model that it begins with.
    """

    settings: TrainSettings
    file: Path
    feeds: Sequence[SealedFeed]
    ranks: int
    model: PreparedModel

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def result(self) -> Path:
        """Where the trained model is once the run is whole."""
        return self.folder / RESULT

    def is_whole(self) -> bool:
        """Whether the last step is done and the model written."""
        return is_whole(self.settings)


def require_reader() -> None:
    """Raise where the reader of the feeds is not installed: the ETL does without it."""
    if importlib.util.find_spec("petastorm") is None:
        raise SetupError(
            "train reads its data with Petastorm, which is not installed; it comes with the extra: pip install 'entropylong[train]'"
        )


def trained_model(config: Config) -> tuple[ModelSpec, PreparedModel]:
    """The model to begin with; for sequences it reads the ids that model.name's tokenizer made.

    Raises:
        ModelError: there is none, or it has another tokenizer.
    """
    cache = config.cache_folder
    spec = model_of(config)
    model = prepare(spec, cache)
    if config.train.model is not None and config.train.mode == "pretrain":
        own = ModelSpec(config.model.name, config.model.revision).absolute()
        check_tokenizer("train.model", config.train.model, prepare(own, cache).path, model.path)
    return spec, model


def check_length(config: Config, model: Path) -> None:
    """Raise where the model was never made for such long sequences, and nothing says how it becomes one."""
    window = window_of(model)
    if config.train.rope_base is None and window is not None and window < config.pack.length:
        raise ConfigError(
            f"key 'train.rope_base': the model reads {window:,} tokens, pack.length is {config.pack.length:,}; state the base that "
            "extends it (published: 2e8), or give the extended model as train.model"
        )


def chat_template(config: Config, model: Path) -> str | None:
    """What conversations are rendered with: as configured, or the tokenizer's own where that is a file of its own."""
    if config.train.mode != "sft":
        return None
    if config.train.chat_template is not None:
        return config.train.chat_template
    file = model / "chat_template.jinja"
    return file.read_text() if file.is_file() else None


def prepare_run(config: Config, spark: SparkSession) -> Prepared:
    """Seal the feeds and write the settings. What cannot work is told here, before any rank starts.

    Raises:
        EntropyLongError: the ranks do not divide the batch, the model or the data is not there.
    """
    require_reader()
    train, length = config.train, config.pack.length
    spec, model = trained_model(config)
    check_trainable(model.path)
    if not (model.path / "tokenizer.json").is_file():
        raise ModelError(f"{spec.name}: has no tokenizer.json, which training needs; save its tokenizer with it")
    if train.ranks is None and train.launch == "cluster":
        raise ConfigError(
            "key 'train.ranks': the driver does not see the executors' GPUs; state how many ranks train.launch cluster has"
        )
    ranks = train.ranks or default_ranks()
    shape = shape_of(model.path)
    check_ranks(ranks, train.sequence_parallel, train.batch, length, shape.heads)
    if train.launch == "local" and torch.cuda.is_available() and ranks > torch.cuda.device_count():
        raise ConfigError(f"key 'train.ranks': {ranks} ranks want a GPU each, this machine has {torch.cuda.device_count()}")
    check_length(config, model.path)
    template = chat_template(config, model.path)
    words = WorkerModel("tokenizer", spec, model.fingerprint, str(config.cache_folder))
    feeds = Feeds(config, spark, words, shape.vocabulary, template).all()
    # Whatever they are called: their order is part of the run.
    feeds.sort(key=lambda feed: (feed.manifest.identity, feed.weight))
    keys = {key: value for key, value in config.semantic(IDENTITY).items() if not key.startswith(_RESOLVED)}
    data = [[feed.manifest.identity, feed.weight] for feed in feeds]
    seed = config.seed if train.seed is None else train.seed
    identity = digest([VERSION, keys, train.mode, template, seed, length, model.fingerprint, data])
    # What a run has under the same name in `train` goes over as it is.
    same = {field.name for field in fields(TrainSettings)} & TrainConfig.model_fields.keys()
    own: dict[str, Any] = {
        "model": spec.name,
        "revision": spec.revision,
        "model_hash": model.fingerprint,
        "node_cache": str(config.cache_folder),
        "feeds": tuple(str(feed.folder) for feed in feeds),
        "weights": tuple(feed.weight for feed in feeds),
        "folder": str(Workspace(config.workspace).training(identity)),
        "length": length,
        "seed": seed,
        "segmented": any(not feed.is_sequences for feed in feeds),
        "chat_template": train.chat_template if train.mode == "sft" else None,
        "threads": rank_threads(spark, train.launch, ranks),
    }
    settings = TrainSettings(**train.model_dump(include=same) | own)
    return Prepared(settings, settings.write(), feeds, ranks, model)


def run_training(config: Config, spark: SparkSession) -> Prepared:
    """Train to the end, or go on with a run that was broken; the same command does both.

    Raises:
        EntropyLongError: a rank failed, or cannot begin; started again, it goes on from the newest whole checkpoint.
    """
    prepared = prepare_run(config, spark)
    try:
        with locked(prepared.folder / ".lock", wait=False):
            return _run(config, spark, prepared)
    except Timeout:
        raise WorkspaceError(f"{prepared.folder}: this run is under way already; wait for it, or stop it first") from None


def _run(config: Config, spark: SparkSession, prepared: Prepared) -> Prepared:
    settings = prepared.settings
    facts = {"train.rows": sum(feed.manifest.rows for feed in prepared.feeds), "train.ranks": prepared.ranks,
             "train.model_hash": prepared.model.fingerprint}  # fmt: skip
    tracked = TrainingRun(config, prepared.folder, prepared.feeds, facts)
    tracked.steps()
    if prepared.is_whole():
        logger.info(f"the run is at its end already: {settings.steps} steps, model in {prepared.result}")
        tracked.finish("FINISHED", prepared.result)
        return prepared
    logger.info(f"training on {prepared.ranks} rank{'s' if prepared.ranks > 1 else ''}: {prepared.folder}")
    try:
        with _Shown(settings.steps) as progress:

            def on_entry(entry: dict[str, Any]) -> None:
                if "said" in entry:
                    progress.line(entry["said"])
                else:
                    progress.step(StepMetrics(**entry))
                    tracked.steps()

            launch(spark, prepared.file, prepared.ranks, config.train.launch, on_entry)
    except BaseException as error:
        tracked.finish("FAILED" if isinstance(error, EntropyLongError) else "KILLED", error=str(error))
        raise
    if prepared.is_whole():
        tracked.finish("FINISHED", prepared.result)
    else:
        tracked.finish("KILLED")
    return prepared


class _Shown:
    """Steps as they come: a bar with rate and ETA on a terminal, and a line a step."""

    def __init__(self, steps: int) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(),
                   TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True))  # fmt: skip
        self._bar = (
            Progress(*columns, console=self._console, transient=True, redirect_stdout=False) if sys.stderr.isatty() else None
        )
        self._steps = steps
        self._task = self._bar.add_task("train", total=steps, rate="") if self._bar else None

    def __enter__(self) -> _Shown:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def line(self, text: str) -> None:
        if not is_shown():
            return
        self._console.print(f"  {text}", highlight=False, soft_wrap=True)

    def step(self, figures: StepMetrics) -> None:
        left = (self._steps - figures.step) * figures.seconds
        rate = f"{figures.tokens_per_second:,.0f} tokens/s"
        self.line(
            f"step {figures.step}/{self._steps}  loss {figures.loss:.4f}  rate {figures.rate:.2e}  "
            f"norm {figures.gradient_norm:.2f}  {rate}  MFU {figures.mfu:.0%}  data {figures.data_wait_share:.1%}  "
            f"{figures.memory_gib:.1f} GiB  {left:,.0f} s left"
        )
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=figures.step, rate=rate)
