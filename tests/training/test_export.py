"""`entropylong export`: what is read back, by the readers of each format, is the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import Row

from entropylong.errors import FeedError, SetupError, UsageError
from entropylong.training.data.export import export_sequences, mds_sample
from tests.conftest import OpenRunner, skip_on_runtime

pytestmark = pytest.mark.runtime

# mosaicml-streaming, in a folder of its own: `make test` fills it.
MDS = Path(sysconfig.get_paths()["purelib"]).parents[2] / "mds"


@pytest.fixture
def packed(finished: Path, open_runner: OpenRunner) -> dict[int, Row]:
    runner = open_runner(finished)
    return {row.sequence_id: row for row in runner.state.ok_rows("sequences").collect()}


def test_parquet_and_json_lines(finished: Path, open_runner: OpenRunner, packed: dict[int, Row], tmp_path: Path) -> None:
    runner = open_runner(finished)
    assert export_sequences(runner.state, tmp_path / "parquet", "parquet") == len(packed) > 1
    rows = pq.read_table(tmp_path / "parquet").to_pylist()
    assert [row["sequence_id"] for row in rows] == sorted(packed)
    assert export_sequences(runner.state, tmp_path / "jsonl", "jsonl") == len(packed)
    lines = [json.loads(line) for file in sorted((tmp_path / "jsonl").glob("*.json")) for line in file.read_text().splitlines()]
    assert any(row.loss_mask is not None for row in packed.values())
    for row, line in zip(rows, lines, strict=True):
        expected = packed[row["sequence_id"]].asDict(recursive=True)
        assert {key: row[key] for key in row} == {key: expected[key] for key in row}
        assert {"fingerprint", "outcome"}.isdisjoint(row) and {"input_ids", "segments", "dependencies", "recipe"} <= set(row)
        assert line["input_ids"] == expected["input_ids"] and line["segments"] == [
            {key: value for key, value in segment.items() if value is not None} for segment in expected["segments"]
        ]
        assert line.get("loss_mask") == (None if expected["loss_mask"] is None else list(expected["loss_mask"]))


READ = """
import json, sys
from streaming import StreamingDataset
data = StreamingDataset(local=sys.argv[1], shuffle=False, batch_size=1)
for row in data:
    print(json.dumps({k: [str(v.dtype), v.tolist()] if hasattr(v, "dtype") else v for k, v in row.items()}))
"""


@pytest.mark.e2e
@skip_on_runtime("mosaicml-streaming stands beside the environment with the extra `train` alone")
def test_mds_is_read_back_by_mosaicml_streaming(
    finished: Path, open_runner: OpenRunner, packed: dict[int, Row], tmp_path: Path
) -> None:
    """Written by the command, in an environment that has mosaicml-streaming; read by its own dataset."""
    config = open_runner(finished).config
    file, out = tmp_path / "mine.yaml", tmp_path / "mds"
    file.write_text(json.dumps({"extends": "base", **json.loads(config.model_dump_json())}))
    environment = os.environ | {"PYTHONPATH": str(MDS)}
    command = [sys.executable, "-m", "entropylong.cli", "export", str(out), "--to", "mds", "--config", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{len(packed)} sequences in {out}" in done.stdout, done.stdout + done.stderr
    assert (out / "index.json").is_file()
    read = subprocess.run([sys.executable, "-c", READ, str(out)], env=environment, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr[-2000:]
    samples = [json.loads(line) for line in read.stdout.splitlines()]
    assert len(samples) == len(packed)
    for sample, row in zip(samples, (packed[i] for i in sorted(packed)), strict=True):
        assert sample["input_ids"] == ["uint32", row.input_ids] and sample["length"] == 1024
        real = next((s.start for s in row.segments if s.kind == "pad"), 1024)
        assert sample["indices"] == ["uint32", [[0, real]]], "one segment up to the last real token, never the pieces"
        assert sample["mask"] == ["uint8", [1] * real + [0] * (1024 - real)]


def test_ids_of_a_large_vocabulary_survive() -> None:
    sample = mds_sample(np.array([128_255, 70_000, 1], np.int32), [{"kind": "root", "root_id": "a", "start": 0, "end": 3}], None)
    assert sample["input_ids"].tolist() == [128_255, 70_000, 1] and sample["indices"].tolist() == [[0, 3]]


def test_what_an_export_refuses(finished: Path, open_runner: OpenRunner, tmp_path: Path) -> None:
    runner = open_runner(finished)
    with pytest.raises(UsageError, match="is there already"):
        export_sequences(runner.state, tmp_path, "parquet")
    with pytest.raises(UsageError, match="split paths of MDS data at @ and #"):
        export_sequences(runner.state, tmp_path / "a@2", "mds")
    with pytest.raises(SetupError, match=r"pip install --no-deps -r requirements-mds\.lock"):
        export_sequences(runner.state, tmp_path / "mds", "mds")
    with pytest.raises(FeedError, match="no sequences to export"):
        export_sequences(open_runner(finished, "accept.epsilon=0.9").state, tmp_path / "none", "parquet")
    assert not list(tmp_path.iterdir())
