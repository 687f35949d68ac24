"""A training run that is killed, stopped or cut short goes on as if nothing had been: the losses of the unbroken run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from entropylong.feed.manifest import FeedFile, FeedManifest, write_manifest
from entropylong.feed.seal import COLUMNS
from entropylong.hashing import file_sha256
from entropylong.training.optimizer import learning_rate, warmup_steps

ROOT = Path(__file__).parent.parent
LENGTH, STEPS = 32, 6


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten sequences, so that six batches of four go twice through them; some masks have zeros."""
    folder = tmp_path_factory.mktemp("feed") / "feed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for number, rows in enumerate((4, 4, 2)):
        table = pa.Table.from_pylist(
            [{"sequence_id": 10 * number + i, "input_ids": rng.integers(2, 300, LENGTH).tolist(),
              "loss_mask": [1] * (LENGTH - 5 * i) + [0] * 5 * i} for i in range(rows)], schema=COLUMNS)  # fmt: skip
        path = folder / f"part-{number:06d}.parquet"
        pq.write_table(table, path, row_group_size=2)
        files.append(FeedFile(path.name, rows, file_sha256(path)))
    write_manifest(folder, FeedManifest("sequences", "f", 1, LENGTH, tuple(files)))
    return folder


Settings = dict[str, Any]


@pytest.fixture(scope="module")
def settings(feed: Path, tiny_lm: Path) -> Settings:
    return {
        "model": str(tiny_lm), "feeds": [str(feed)], "weights": [1.0], "length": LENGTH, "batch": 4, "steps": STEPS, "peak": 1e-2,
        "floor": 0.1, "warmup": 0.2, "weight_decay": 0.1, "clip": 1.0, "rope_base": 1e6, "sequence_parallel": 1, "block": 16,
        "checkpointing": True, "dtype": "float32", "save_every": 2, "keep": 2, "seed": 1,
    }  # fmt: skip


def run(settings: Settings, folder: Path, ranks: int, *fault: str) -> tuple[int, str, list[dict[str, float]]]:
    """Exit code, what the first rank said, and its steps, of one launch."""
    log = folder / f"{len(list(folder.glob('*.jsonl')))}.jsonl"
    log.touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "tests.ranks_run"]
    done = subprocess.run(
        [*command, json.dumps(settings | {"folder": str(folder / "run")}), str(log), *fault],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, start_new_session=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr[-3000:], [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("unbroken")
    code, said, steps = run(settings, folder, 2)
    assert code == 0, said
    return folder, [step["loss"] for step in steps]


def test_it_learns_and_leaves_a_plain_model(unbroken: tuple[Path, list[float]], settings: Settings) -> None:
    folder, losses = unbroken
    assert len(losses) == STEPS and losses[-1] < losses[0]
    assert sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    model = AutoModelForCausalLM.from_pretrained(folder / "run" / "model")
    assert model.config.rope_parameters["rope_theta"] == 1e6
    AutoTokenizer.from_pretrained(folder / "run" / "model")
    first = AutoModelForCausalLM.from_pretrained(settings["model"])
    moved = [(a - b).abs().max() for a, b in zip(model.parameters(), first.parameters(), strict=True)]
    assert all(step > 0 for step in moved), "every parameter was trained"
    names = {path.suffix for path in (folder / "run").rglob("*") if path.is_file()}
    assert names <= {".safetensors", ".json", ".jinja", ".txt"}, "nothing pickled"


@pytest.mark.parametrize(("fault", "at"), [("kill", "5"), ("term", "3"), ("nan", "4")])
def test_a_broken_run_goes_on_bit_for_bit(
    fault: str, at: str, unbroken: tuple[Path, list[float]], settings: Settings, tmp_path: Path
) -> None:
    code, said, before = run(settings, tmp_path, 2, fault, at)
    if fault == "term":
        assert code == 0 and "asked to stop: saved after step" in said and "done: False" in said
    else:
        assert code != 0
    if fault == "nan":
        assert "error: step 4: loss nan" in said and [step["step"] for step in before] == [1, 2, 3]
    code, said, after = run(settings, tmp_path, 2)
    assert code == 0 and "goes on after step" in said, said
    losses = {int(step["step"]): step["loss"] for step in before + after}
    assert [losses[n] for n in range(1, STEPS + 1)] == unbroken[1]
    weights = [AutoModelForCausalLM.from_pretrained(place / "run" / "model").state_dict() for place in (tmp_path, unbroken[0])]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_another_world_size_and_a_checkpoint_cut_short(
    unbroken: tuple[Path, list[float]], settings: Settings, tmp_path: Path
) -> None:
    """Stopped at two ranks; its newest checkpoint loses a byte; four ranks, two a sequence, go on from the one before."""
    run(settings, tmp_path, 2, "term", "5")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    whole = [path for path in checkpoints if (path / "complete.json").is_file()]
    assert len(whole) > 1
    file = next(whole[-1].glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    code, said, after = run(settings | {"sequence_parallel": 2}, tmp_path, 4)
    assert code == 0 and f"{whole[-1].name} was cut short: passed over" in said, said
    first = int(after[0]["step"])
    assert first == int(whole[-2].name[5:]) + 1
    np.testing.assert_allclose([step["loss"] for step in after], unbroken[1][first - 1 :], rtol=1e-4)


def test_the_published_schedules() -> None:
    assert (warmup_steps(1000, 0.2), warmup_steps(250, 0.05)) == (200, 13)
    rates = [learning_rate(step, steps=1000, peak=4e-5, warmup=200, floor=0.0) for step in range(1000)]
    assert rates[0] == 0 and rates[100] == 2e-5 and rates[200] == 4e-5 and rates[600] == pytest.approx(2e-5) and rates[999] < 1e-9
    sft = [learning_rate(step, steps=250, peak=2e-5, warmup=13, floor=0.1) for step in range(251)]
    assert sft[1] == pytest.approx(2e-5 / 13) and sft[250] == pytest.approx(2e-6) and max(sft) == 2e-5
