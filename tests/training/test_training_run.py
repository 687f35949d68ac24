"""A training run that is killed, stopped or cut short goes on as if nothing had been: the losses of the unbroken run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from entropylong.training.data.manifest import FeedManifest, write_manifest
from entropylong.training.data.rows import feed_table, write_file
from entropylong.training.launch import MODULE, torchrun_line
from entropylong.training.optimizer import schedule, warmup_steps
from entropylong.training.settings import TrainSettings
from entropylong.training.steps import read_steps

ROOT = Path(__file__).parents[2]
LENGTH, STEPS = 32, 6


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten sequences, so that six batches of four go twice through them; some masks have zeros."""
    folder = tmp_path_factory.mktemp("feed") / "feed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for number, rows in enumerate((4, 4, 2)):
        arrays = [
            (
                rng.integers(2, 300, LENGTH, dtype=np.int32),
                np.repeat([1, 0], [LENGTH - 5 * i, 5 * i]),
                np.zeros(LENGTH),
                np.zeros(LENGTH),
            )
            for i in range(rows)
        ]
        files.append(write_file(folder, number, feed_table([10 * number + i for i in range(rows)], arrays)))
    write_manifest(folder, FeedManifest("sequences", "f", 1, LENGTH, tuple(files)))
    return folder


@pytest.fixture(scope="module")
def settings(feed: Path, tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    return TrainSettings(
        model=str(tiny_lm), feeds=(str(feed),), weights=(1.0,), folder="", length=LENGTH, batch=4, steps=STEPS, learning_rate=1e-2,
        final_rate=0.1, warmup=0.2, weight_decay=0.1, clip=1.0, rope_base=1e6, dtype="float32", seed=1, logits_block=16, 
        node_cache=str(tmp_path_factory.mktemp("cache")),
        save_every=2, keep=2, threads=1,
    )  # fmt: skip


def run(settings: TrainSettings, folder: Path, ranks: int, fault: str = "", at: int = 0) -> tuple[int, str]:
    """Exit code of one launch, and what its ranks printed."""
    file = replace(settings, folder=str(folder)).write()
    line = torchrun_line(file, ranks).split()
    command = [sys.executable, "-m", "torch.distributed.run", *line[1:]]
    if fault:
        command[command.index(MODULE)] = "tests.ranks_run"
        command += [fault, str(at)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, start_new_session=True, timeout=300)
    return done.returncode, done.stdout + done.stderr[-3000:]


def losses(folder: Path) -> list[float]:
    steps = read_steps(folder)
    assert [step.step for step in steps] == list(range(1, len(steps) + 1)), "one unbroken curve"
    return [step.loss for step in steps]


@pytest.fixture(scope="module")
def unbroken(settings: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    code, output = run(settings, folder, 2)
    assert code == 0, output
    return folder


@pytest.mark.e2e
def test_it_learns_and_leaves_a_plain_model(unbroken: Path, settings: TrainSettings) -> None:
    curve = losses(unbroken)
    assert len(curve) == STEPS and curve[-1] < curve[0]
    assert sorted(path.name for path in (unbroken / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    model = AutoModelForCausalLM.from_pretrained(unbroken / "model")
    assert model.config.rope_parameters["rope_theta"] == 1e6
    AutoTokenizer.from_pretrained(unbroken / "model")
    first = AutoModelForCausalLM.from_pretrained(settings.model)
    moved = [(a - b).abs().max() for a, b in zip(model.parameters(), first.parameters(), strict=True)]
    assert all(step > 0 for step in moved), "every parameter was trained"
    names = {path.suffix for path in unbroken.rglob("*") if path.is_file()}
    assert names <= {".safetensors", ".json", ".jsonl", ".jinja", ".txt"}, "nothing pickled"
    for step in read_steps(unbroken):
        assert step.tokens == 4 * LENGTH and 0 <= step.data_wait_share < 1 and 0 < step.mfu < 1 and step.memory_gib > 0.1
        assert step.tokens_per_second == pytest.approx(step.tokens / step.seconds) == 2 * step.tokens_per_second_per_rank


@pytest.mark.e2e
def test_the_export_gives_the_logits_that_were_trained(unbroken: Path, settings: TrainSettings) -> None:
    """The weights of the last checkpoint, put into transformers' own model by name: equal logits, to the bit."""
    exported = AutoModelForCausalLM.from_pretrained(unbroken / "model", dtype=torch.float32)
    shards = [load_file(path) for path in sorted((unbroken / "checkpoints" / "step-00000006").glob("*.safetensors"))]
    saved: dict[str, torch.Tensor] = {}
    for shard in shards:  # FSDP cuts each weight along its first dimension, in the order of the ranks
        for name in sorted(shard):
            if name.startswith("model.lm."):
                key = name.removeprefix("model.lm.")
                saved[key] = torch.cat([saved[key], shard[name]]) if key in saved else shard[name]
    plain = AutoModelForCausalLM.from_config(exported.config)
    plain.load_state_dict(saved)
    ids = torch.arange(2, 34)[None]
    assert torch.equal(plain(ids).logits, exported(ids).logits)


@pytest.mark.e2e
def test_a_run_that_breaks_five_ways_goes_on_bit_for_bit(unbroken: Path, settings: TrainSettings, tmp_path: Path) -> None:
    """A loss that is no number, a rank that dies, a disk that is full, a scheduler's SIGTERM, a kill; then to the end."""

    def broken(fault: str, at: int) -> str:
        code, output = run(settings, tmp_path, 2, fault, at)
        assert (code == 0) == (fault == "term"), output
        return output + "".join(json.loads(path.read_text())["error"] for path in tmp_path.glob("error-*"))

    assert "step 4: loss nan" in broken("nan", 4) and len(read_steps(tmp_path)) == 3
    output = broken("dead", 2)
    assert "goes on after step 2" in output and "SIGKILL" in output
    output = broken("disk", 3)
    assert "step-00000004: cannot be written" in output and "free some space" in output
    assert "asked to stop: saved after step 3" in broken("term", 3)
    assert "goes on after step 3" in broken("kill", 5)
    code, output = run(settings, tmp_path, 2)
    assert code == 0 and "goes on after step" in output, output
    assert losses(tmp_path) == losses(unbroken)
    weights = [AutoModelForCausalLM.from_pretrained(place / "model").state_dict() for place in (tmp_path, unbroken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.e2e
def test_another_world_size_and_a_checkpoint_cut_short(unbroken: Path, settings: TrainSettings, tmp_path: Path) -> None:
    """Stopped at two ranks; its newest checkpoint loses a byte; four ranks, two a sequence, go on from the one before."""
    run(settings, tmp_path, 2, "term", 5)
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    whole = [path for path in checkpoints if (path / "complete.json").is_file()]
    assert len(whole) > 1
    file = next(whole[-1].glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    code, output = run(replace(settings, sequence_parallel=2), tmp_path, 4)
    assert code == 0 and f"{whole[-1].name} was cut short: passed over" in output, output
    assert f"goes on after step {int(whole[-2].name[5:])}" in output
    np.testing.assert_allclose(losses(tmp_path), losses(unbroken), rtol=1e-4)


def rates(steps: int, peak: float, warmup: int, floor: float, done: int = 0) -> list[float]:
    """What the optimizer has at each step that is left."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    plan = schedule(optimizer, steps=steps, warmup=warmup, floor=floor, done=done)
    values = []
    for _ in range(done, steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    return [*values, optimizer.param_groups[0]["lr"]]


def test_the_published_schedules() -> None:
    assert (warmup_steps(1000, 0.2), warmup_steps(250, 0.05)) == (200, 13)
    pretrain = rates(steps=1000, peak=4e-5, warmup=200, floor=0.0)
    assert pretrain[0] == 0 and pretrain[100] == 2e-5 and pretrain[200] == 4e-5 and pretrain[999] < 1e-9
    for step, rate in enumerate(pretrain):
        progress = (step - 200) / 800
        exact = 4e-5 * step / 200 if step < 200 else 4e-5 * 0.5 * (1 + math.cos(math.pi * progress))
        assert rate == pytest.approx(exact, rel=1e-15)
    sft = rates(steps=250, peak=2e-5, warmup=13, floor=0.1)
    assert [sft[step] for step in (1, 12, 13, 100, 249, 250)] == pytest.approx(
        [1.5384615384615385e-06, 1.8461538461538465e-05, 2e-05, 1.4649727887316947e-05, 2.00079069539209e-06, 2e-6], rel=1e-15
    )
    # No warm-up begins at the highest rate; a run that goes on has the rates that it would have had.
    assert rates(steps=7, peak=1e-2, warmup=0, floor=0.0)[0] == 1e-2
    for done in (1, 13, 100, 249):
        assert rates(steps=250, peak=2e-5, warmup=13, floor=0.1, done=done) == sft[done:]
