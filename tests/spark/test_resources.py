"""Where models would not fit: told before one is loaded."""

from __future__ import annotations

import pytest

from entropylong.config import load_config
from entropylong.errors import SetupError, UsageError
from entropylong.spark import resources
from entropylong.spark.resources import GIB, check_resources, executor_memory, size_bytes
from tests.conftest import CONF

MODEL = 17 * GIB
YARN = {"spark.master": "yarn", "spark.executor.memory": "16g"}


def test_the_shipped_cluster_holds_an_8b_model() -> None:
    conf = load_config(CONF / "cluster.yaml").spark.conf
    check_resources({"spark.master": "yarn", **conf}, 64, MODEL, [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"spark.task.resource.gpu.amount": "0.25"},
            r"gpu.amount is 0.25: several tasks would load a model onto one GPU; set it to 1",
        ),
        ({"spark.task.resource.gpu.amount": "2"}, r"gpu.amount is 2: a task would wait for GPUs it never uses"),
        ({"spark.executor.memoryOverhead": "8g"}, r"1 Python workers .* leaves 8.0; set it to 18g"),
        # Eight GPUs an executor, as on Databricks: eight workers in one container.
        ({"spark.executor.resource.gpu.amount": "8", "spark.executor.cores": "64"}, r"8 Python workers .* set it to 144g"),
    ],
)
def test_layouts_that_are_refused(changes: dict[str, str], expected: str) -> None:
    conf = {"spark.master": "yarn", **load_config(CONF / "cluster.yaml").spark.conf, **changes}
    with pytest.raises(SetupError, match=expected):
        check_resources(conf, 64, MODEL, [])


def test_a_gpu_that_tasks_do_not_ask_for() -> None:
    with pytest.raises(SetupError, match="is not set: several tasks"):
        check_resources({**YARN, "spark.executor.resource.gpu.amount": "1"}, 4, GIB, [])


def test_spark_s_own_defaults_for_python() -> None:
    """A tenth of the heap on YARN, two fifths on Kubernetes; where nothing enforces it, nothing is refused."""
    cpus = {"spark.executor.cores": "4"}
    with pytest.raises(SetupError, match=r"4 Python workers an executor need about 6.0 GiB .* leaves 1.6"):
        check_resources(YARN | cpus, 4, GIB // 2, [])
    check_resources(YARN | cpus | {"spark.master": "k8s://host"}, 4, GIB // 2, [])
    check_resources(YARN | cpus | {"spark.executor.pyspark.memory": "5g"}, 4, GIB // 2, [])
    check_resources(YARN | cpus | {"spark.master": "spark://host:7077"}, 4, MODEL, [])


def test_databricks() -> None:
    """One executor a node with all its GPUs, which the runtime states; a node by itself is a local machine."""
    cluster = {"spark.master": "spark://10.0.0.1:7077", "spark.executor.memory": "80g", "spark.executor.resource.gpu.amount": "4"}
    check_resources(cluster | {"spark.task.resource.gpu.amount": "1"}, 64, MODEL, [])
    with pytest.raises(SetupError, match=r"spark\.task\.resource\.gpu\.amount is 0\.25: several tasks would load a model"):
        check_resources(cluster | {"spark.task.resource.gpu.amount": "0.25"}, 64, MODEL, [])
    with pytest.raises(SetupError, match=r"16 Python workers need about 288.0 GiB .* a GPU has 48.0"):
        check_resources({"spark.master": "local[*, 4]"}, 16, MODEL, [48 * GIB])


def test_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "machine_memory", lambda: 32 * GIB)
    local = {"spark.master": "local[*]"}
    check_resources(local, 8, 3 * GIB, [])
    with pytest.raises(
        SetupError, match=r"16 Python workers need about 64.0 GiB .* this machine has 32.0; set spark.master=local\[8\]"
    ):
        check_resources(local, 16, 3 * GIB, [])
    with pytest.raises(SetupError, match="take smaller models"):
        check_resources(local, 1, 40 * GIB, [])
    # Two GPUs share the workers.
    check_resources(local, 8, 5 * GIB, [24 * GIB, 24 * GIB])
    with pytest.raises(SetupError, match=r"a GPU has 24.0; set spark.master=local\[2\]"):
        check_resources(local, 8, MODEL, [24 * GIB, 24 * GIB])


def test_sizes() -> None:
    assert [size_bytes(text) for text in ("8g", "8GB", "512m", "17")] == [8 * GIB, 8 * GIB, 512 << 20, 17]
    assert size_bytes("384", "m") == 384 << 20
    assert executor_memory({"spark.master": "yarn"}) == GIB and executor_memory({"spark.master": "local-cluster[2,1,1024]"}) == GIB
    with pytest.raises(UsageError, match="is not a size like 8g"):
        size_bytes("much")
