"""The context of a workspace's stages: its models by name and fingerprint, its slots. Driver side; no model is loaded."""

from __future__ import annotations

from pyspark.sql import SparkSession

from entropylong.config import Config
from entropylong.core.context import StageContext
from entropylong.core.udf import Meter
from entropylong.corpus.exclusion import prepare_excluded
from entropylong.models.cache import WorkerModel, gpu_memory
from entropylong.models.shape import shape_of, weight_bytes
from entropylong.pipeline.preflight import prepare_models
from entropylong.spark.resources import check_resources
from entropylong.spark.session import settings_of, task_threads


def make_context(config: Config, spark: SparkSession) -> StageContext:
    """The context under a config.

    Raises:
        SourceError: an evaluation set of corpus.exclude cannot be read.
        ModelError: a model is not there, or is not of its kind.
        ConfigError: a root with a context does not fit the model's window.
        SetupError: the models do not fit where Spark would load them.
    """
    cache, model = str(config.cache_folder), config.model
    specs, prepared = prepare_models(config)
    # The type that `auto` settles on is not known yet: float32 is the larger one.
    body = "float32" if model.dtype == "auto" else model.dtype
    sizes = [weight_bytes(prepared_model.path, None if name == "encoder" else body) for name, prepared_model in prepared.items()]
    check_resources(settings_of(spark), spark.sparkContext.defaultParallelism, sum(sizes), gpu_memory())
    threads = task_threads(spark)
    causal_lm = WorkerModel(
        "causal_lm", specs["model"], prepared["model"].fingerprint, cache, model.dtype, model.document_start_id, threads
    )
    query_model = None
    if "query" in specs:
        query_model = WorkerModel("query_model", specs["query"], prepared["query"].fingerprint, cache, threads=threads)
    return StageContext(
        config=config,
        spark=spark,
        causal_lm=causal_lm,
        encoder=WorkerModel("encoder", specs["encoder"], prepared["encoder"].fingerprint, cache, threads=threads),
        cores=spark.sparkContext.defaultParallelism,
        meter=Meter(spark.sparkContext),
        shape=shape_of(prepared["model"].path),
        query_model=query_model,
        excluded=prepare_excluded(config),
    )
