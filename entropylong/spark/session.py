"""The Spark session and its preflight: the only place that knows about local machines and clusters."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from entropylong.config import Config
from entropylong.errors import EntropyLongError, SetupError
from entropylong.utils.log import is_shown

# SPARK_* traps: without PYSPARK_PYTHON a UDF in a virtual environment finds another Python.
_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Whichever comes first: rows of a document are of any size.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "512",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(16 << 20),
    "spark.sql.execution.pyspark.udf.faulthandler.enabled": "true",
    "spark.python.worker.faulthandler.enabled": "true",
    "spark.python.worker.reuse": "true",
    # The line of Python behind each column: five calls into the JVM for each, a quarter of all; only stack traces say it.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.databricks.delta.schema.autoMerge.enabled": "false",
    "spark.speculation": "false",
}
_LOCAL_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # Python's work is spread by the stages themselves; what Spark shuffles here is small.
    "spark.sql.shuffle.partitions": "1",
    # A local run plans many small queries and computes in Python: compiling each query's Java, or planning it again by
    # measured sizes, costs more than it saves (a fifth of the whole run on small data).
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    # Neither is read here: the text of each plan, for the UI that is off, and Spark's own check of each step of its planner.
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.lightweightPlanChangeValidation": "false",
    "spark.databricks.delta.snapshotPartitions": "1",
    # Tasks that list a table's folder for VACUUM: ten thousand by default, half a minute a table.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
    # Statistics pick the files of a large table; to look for them in a small one takes longer than to read it.
    "spark.databricks.delta.stats.collect": "false",
    "spark.databricks.delta.stats.skipping": "false",
    # Optional files that speed up logs of thousands of commits; here each costs more than its commit.
    "spark.databricks.delta.writeChecksumFile.enabled": "false",
    # Worked out at each commit, with a job of its own, for those files.
    "spark.databricks.delta.allFilesInCrc.enabled": "false",
    "spark.python.daemon.module": "entropylong.worker_daemon",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    # A local disk that fills up must fail the write, not retry for minutes.
    "spark.task.maxFailures": "1",
}


def on_databricks() -> bool:
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def submitted() -> bool:
    """Whether spark-submit started this process, in any deploy mode: then the JVM, its master and its jars are there already."""
    # Not SPARK_ENV_LOADED: a driver that YARN starts on its cluster has no shell script of Spark's before it.
    return "PYSPARK_GATEWAY_PORT" in os.environ


def session(config: Config):  # type: ignore[no-untyped-def]
    """The active session, or a new one with Delta for `spark.master`.

    Raises:
        SetupError: Java is missing or of another version than 17 or 21.
    """
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None or on_databricks():
        spark = active or SparkSession.builder.getOrCreate()
        require_classic(spark)
        return spark
    if not (started := submitted()):
        check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    local = config.spark.master.startswith("local")
    settings = dict(_SETTINGS)
    if local and not started:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        settings |= _LOCAL_SETTINGS | {"spark.driver.memory": config.spark.driver_memory}
        node_cache = Path(config.node_cache).expanduser()
        settings["spark.driver.extraJavaOptions"] = " ".join(java_options(node_cache))
        if config.spark.conf.get("spark.sql.catalogImplementation") != "hive":
            # A catalog in memory forgets its tables at the end: its folder is not left where people work.
            settings["spark.sql.warehouse.dir"] = str(node_cache / "spark-warehouse")
    settings |= config.spark.conf
    builder = SparkSession.builder.appName("entropylong")
    if not started:
        builder = builder.master(config.spark.master)
    for key, value in settings.items():
        builder = builder.config(key, value)
    if sys.stderr.isatty() and is_shown():
        print("Starting Spark ...", file=sys.stderr, flush=True)  # seconds, for which nothing else would be seen
    with _quiet_start():
        from delta import configure_spark_with_delta_pip

        spark = (builder if started else configure_spark_with_delta_pip(builder)).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    require_delta(spark)
    remember_names(spark)
    if local and not started:
        # Where each RDD was made, for the UI that is off: Spark reads it out of a stack trace each time.
        for form in ("short", "long"):
            spark.sparkContext.setLocalProperty(f"callSite.{form}", "entropylong")
    return spark


def remember_names(spark) -> None:  # type: ignore[no-untyped-def]
    """Look up once what PySpark asks of the JVM by name at each column and call: Java looks for each in three hundred jars."""
    for name in ("functions", "PythonUtils", "PythonSQLUtils", "SimplePythonFunction", "io", "py4j"):
        setattr(spark._jvm, name, getattr(spark._jvm, name))


def require_delta(spark) -> None:  # type: ignore[no-untyped-def]
    """Raise where the JVM lacks Delta's jars: spark-submit brings those it is told to, the Python package holds none.

    Raises:
        SetupError: they are not on its classpath.
    """
    from importlib.metadata import version

    from py4j.java_gateway import JavaPackage

    # What py4j finds no class for is a package to it.
    if isinstance(spark._jvm.io.delta.tables.DeltaTable, JavaPackage):
        jars = f"io.delta:delta-spark_2.13:{version('delta-spark')}"
        raise SetupError(f"Spark has no Delta; give spark-submit --packages {jars}, or its jars by --jars")


def require_classic(spark) -> None:  # type: ignore[no-untyped-def]
    """Raise where Python runs apart from Spark, on serverless compute and with standard access on Databricks, or Spark is old.

    Streams are driven, tables are versioned and GPUs are told apart through the JVM, which such a session does not show.

    Raises:
        SetupError: the session is one of Spark Connect, or of Spark 3.
    """
    runtime = os.environ.get("DATABRICKS_RUNTIME_VERSION", "")
    remedy = "take classic compute with dedicated access (in a job: a job cluster with data_security_mode: SINGLE_USER)"
    if type(spark).__module__.startswith("pyspark.sql.connect"):
        is_serverless = os.environ.get("IS_SERVERLESS", "").lower() == "true" or runtime.startswith("client.")
        where = "serverless compute" if is_serverless else "a cluster with standard access" if runtime else "Spark Connect"
        raise SetupError(f"{where} runs Python apart from Spark; {remedy}, runtime 17.3 LTS ML")
    if int(spark.version.partition(".")[0]) < 4:
        raise SetupError(f"runtime {runtime or '?'} has Spark {spark.version}, 4.0 is needed; take runtime 17.3 LTS ML")


def java_options(node_cache: Path) -> list[str]:
    """Quick to start: no second compiler, and Spark's 15,000 classes from an archive that the first session leaves behind.

    The archive halves the start of every later command. Java itself checks that it fits this Java and these jars, and goes
    on without it where it does not.
    """
    import pyspark

    archive = node_cache / "jvm" / f"spark-{pyspark.__version__}.jsa"
    archive.parent.mkdir(parents=True, exist_ok=True)
    use = "SharedArchiveFile" if archive.is_file() else "ArchiveClassesAtExit"
    # The code cache is sized for one small program: Spark's planner fills it, and Java stops compiling.
    return [
        "-XX:TieredStopAtLevel=1",
        "-XX:ReservedCodeCacheSize=128m",
        "-XX:+UseSerialGC",
        "-Xlog:disable",
        f"-XX:{use}={archive}",
    ]


def settings_of(spark) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """The settings that the session's application runs under."""
    return dict(spark.sparkContext.getConf().getAll())


def task_threads(spark) -> int:  # type: ignore[no-untyped-def]
    """Threads a Python worker may use: the cores of its task."""
    return int(spark.conf.get("spark.task.cpus", "1"))


def check_java() -> str:
    """Version and place of the Java that Spark will start; one clear line where Spark would print a stack trace.

    Raises:
        SetupError: there is none, or it is of another version than 17 or 21.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    remedy = "install Java 17 (Debian: apt-get install openjdk-17-jre-headless) and set JAVA_HOME"
    if java is None or not Path(java).exists():
        raise SetupError(f"Java is not installed; {remedy}")
    try:
        printed = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    except OSError as error:
        raise SetupError(f"Java at {java} cannot be started ({error.strerror}); {remedy}") from None
    match = re.search(r'version "(\d+)', printed)
    if match is None or match.group(1) not in ("17", "21"):
        raise SetupError(f"Java {match.group(1) if match else '?'} at {java} does not run Spark 4.0; {remedy}")
    return f"{match.group(1)} at {java}"


class _quiet_start:
    """Ivy and the JVM print dozens of lines at start, on both streams: a log has them, which stays only if the start fails.

    Raises:
        SetupError: the start failed; with the line of the log that says why, and its place.
    """

    def __enter__(self) -> None:
        import tempfile

        sys.stdout.flush()
        sys.stderr.flush()
        self._saved = [os.dup(1), os.dup(2)]
        self._log = tempfile.NamedTemporaryFile(prefix="entropylong-spark-", suffix=".log", delete=False)
        for number in (1, 2):
            os.dup2(self._log.fileno(), number)

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        for number, saved in enumerate(self._saved, start=1):
            os.dup2(saved, number)
            os.close(saved)
        self._log.close()
        file = Path(self._log.name)
        if not isinstance(value, Exception) or isinstance(value, (EntropyLongError, ImportError)):
            file.unlink()
            return
        # Where there never was a JVM, the log has the reason; else the exception has it.
        output = file.read_text(errors="replace") if "JAVA_GATEWAY_EXITED" in str(value) else str(value)
        raise SetupError(f"Spark does not start: {why_not(output)}; all that it printed: {file}") from value


def why_not(printed: str) -> str:
    """Of what Java and Ivy print where Spark does not start, what says why; and what to do, where that is known."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and not re.match(r"\s*at ", line)]
    marked = [number for number, line in enumerate(lines) if re.search(r"Error|Exception|unresolved dependency", line)]
    first = marked[0] if marked else max(0, len(lines) - 2)
    for number in marked:
        if "unresolved dependency" in lines[number]:
            return (
                f"{lines[number][:200]}; this jar is fetched once, from Maven Central: start with network, or name a mirror in "
                "spark.conf.spark.jars.repositories"
            )
    return " ".join(lines[first : first + 2]).removeprefix(": ")[:300] or "it printed nothing"
