"""doctor: passes here, and says in a line what to mend."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from entropylong.cli import app
from entropylong.config import load_config
from entropylong.errors import SetupError
from entropylong.maintenance import doctor
from entropylong.spark.session import check_java, why_not

if TYPE_CHECKING:
    pass


def test_doctor_passes_here_and_says_what_to_mend(
    spark: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("small", [f"workspace={tmp_path}"])
    findings = {one.part: one for one in doctor.examine(config)}
    assert {part for part, one in findings.items() if one.state == "fix"} == set()
    assert "read back" in findings["Spark and Delta"].found and findings["input"].state == "note"
    broken = load_config("small", [
        "workspace=/proc/nowhere", "model.name=wheel:no_such/model", "tracking.uri=http://me:secret@127.0.0.1:9",
        "sources.docs.kind=jsonl", f"sources.docs.path={tmp_path / 'none.jsonl'}",
    ])  # fmt: skip
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_IMPORTED", ("no_such_library",))
    findings = {one.part: one for one in doctor.examine(broken)}
    failures = {part for part, one in findings.items() if one.state == "fix"}
    assert failures >= {"libraries", "Java", "disk", "models", "input", "MLflow"}
    (tmp_path / "mlflow.db").write_text("no database, but long enough for a header that says so " * 9)
    with pytest.raises(SetupError, match="is not a database"):
        doctor._mlflow(load_config("small", [f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]))
    assert "Java is not installed" in findings["Java"].remedy and "secret" not in findings["MLflow"].remedy
    assert "no_such_library cannot be imported" in findings["libraries"].found
    assert app.call(["doctor", "workspace=/proc/nowhere", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {one["part"]: one["state"] for one in report}["disk"] == "fix"


def test_a_model_of_the_hub_that_is_not_here_is_a_note_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[object] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as it is after an import without the variable

    def resolve(*host: object, **options: object) -> None:
        hosts.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    finding = doctor._models(load_config("small", [f"workspace={tmp_path}", "model.name=nobody/nothing"]))
    assert (finding.state, finding.found) == ("note", "not on this machine yet: nobody/nothing")
    assert hosts == []


def test_the_spark_of_a_databricks_runtime_is_no_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real_version = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("pyspark", "delta-spark"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    needs = ["torch>=2.7", 'pyspark>=4.0.1; extra == "spark"', 'delta-spark>=4.0.0; extra == "spark"']
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    monkeypatch.setattr(doctor, "_IMPORTED", ())
    assert "pyspark is not installed" in doctor._libraries(load_config("small")).found
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    finding = doctor._libraries(load_config("small"))
    assert finding.state == "pass" and "torch " in finding.found


def doctor_with(java: Path) -> tuple[dict[str, dict[str, str]], str]:
    """In a process of its own, without a session: findings by part, and what went to stderr."""
    command = [sys.executable, "-m", "entropylong.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "JAVA_HOME": str(java)})
    assert done.returncode == 1, done.stderr
    return {one["part"]: one for one in json.loads(done.stdout)}, done.stderr


@pytest.mark.e2e
def test_doctor_says_in_one_line_why_java_dies(tmp_path: Path) -> None:
    """A Java that says a good version and then cannot start, on both streams and with a trace, as real ones do."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        '#!/bin/sh\n[ "$1" = -version ] && echo \'openjdk version "17.0.1"\' >&2 && exit 0\n'
        'echo "Error occurred during initialization of VM"; echo "Too small maximum heap"; echo "\tat x.Y(Z.java:1)" >&2; exit 1\n'
    )
    java.chmod(0o755)
    findings, stderr = doctor_with(tmp_path)
    assert findings["Java"]["state"] == "pass" and "java:1" not in stderr
    assert "Error occurred during initialization of VM Too small maximum heap; all that" in findings["Spark and Delta"]["remedy"]


def test_java_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("not executable")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SetupError, match=r"cannot be started \(Permission denied\); install Java 17"):
        check_java()


def test_of_what_ivy_prints_the_reason_is_told() -> None:
    printed = """:: loading settings :: url = jar:file:/ivysettings.xml
	:::: ERRORS
	Server access error at url https://repo/delta-spark_2.13-4.0.1.pom (java.net.ConnectException: Connection refused)
Exception in thread "main" java.lang.RuntimeException: [unresolved dependency: io.delta#delta-spark_2.13;4.0.1: not found]
	at org.apache.spark.util.MavenUtils$.resolveMavenCoordinates(MavenUtils.scala:563)"""
    assert "delta-spark_2.13;4.0.1: not found]; this jar is fetched once, from Maven Central" in why_not(printed)
    assert why_not("x\n: org.apache.spark.SparkException: Could not parse Master URL: 'foo'\n\tat a.b(c)") == (
        "org.apache.spark.SparkException: Could not parse Master URL: 'foo'"
    )
