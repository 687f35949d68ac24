"""The training run, as each of its ranks does it: rows, gradients, step, checkpoint. Pure torch and Petastorm.

Started by any launcher that sets RANK, WORLD_SIZE and MASTER_ADDR: TorchDistributor and torchrun alike.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from entropylong.errors import TrainingError
from entropylong.feed.reader import Feed, FeedRow, FeedState
from entropylong.training.checkpoint import Checkpoints
from entropylong.training.export import export_model
from entropylong.training.loss import shifted_labels
from entropylong.training.model import TrainingModel, gradients, load_for_training, shard
from entropylong.training.optimizer import adamw, learning_rate, set_rate, warmup_steps
from entropylong.training.ulysses import Ulysses


@dataclass(frozen=True)
class TrainSettings:
    """A training run.

    Attributes:
        model: folder of the model that it begins with.
        feeds, weights: sealed feeds, and the share of rows of each.
        folder: of the run's checkpoints and its result.
        length: tokens of a sequence; batch: sequences of a step, over all ranks.
        peak, floor, warmup: learning rate, share of it at the end, share of the steps to warm up.
        sequence_parallel: ranks that share a sequence.
        block: positions whose logits exist at a time.
    """

    model: str
    feeds: tuple[str, ...]
    weights: tuple[float, ...]
    folder: str
    length: int
    batch: int
    steps: int
    peak: float
    floor: float
    warmup: float
    weight_decay: float
    clip: float
    rope_base: float | None
    sequence_parallel: int
    block: int
    checkpointing: bool
    dtype: str
    save_every: int
    keep: int
    seed: int


@dataclass(frozen=True)
class StepFigures:
    """What one step shows."""

    step: int
    loss: float
    rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    data_wait_share: float
    tokens_per_second: float
    memory_gib: float


def train(settings: TrainSettings, on_step: Callable[[StepFigures], None], say: Callable[[str], None] = print) -> bool:
    """Train to the end, from the newest whole checkpoint if there is one. Every rank calls it; callbacks run on the first.

    Returns:
        Whether the run is at its end; False where it was asked to stop and saved.

    Raises:
        TrainingError: a loss or a gradient is not a number.
        EntropyLongError: feeds, checkpoints or the number of ranks do not fit.
    """
    with _process_group() as device:
        run = _Run(settings, device, say)
        try:
            is_whole = run.to_the_end(on_step)
        finally:
            run.checkpoints.finish()  # whatever ends the run, what it saved counts
        if is_whole:
            export_model(run.model.lm, Path(settings.model), Path(settings.folder) / "model")
        return is_whole


class _Run:
    """Model, optimizer, feed and checkpoints of this rank."""

    def __init__(self, settings: TrainSettings, device: torch.device, say: Callable[[str], None]) -> None:
        self.settings, self.device, self._say = settings, device, say
        ranks, sp = dist.get_world_size(), settings.sequence_parallel
        if ranks % sp:
            raise TrainingError(f"train.sequence_parallel {sp} does not divide {ranks} ranks")
        mesh = init_device_mesh(device.type, (ranks // sp, sp), mesh_dim_names=("data", "sequence"))
        self.ulysses = Ulysses(mesh["sequence"].get_group())
        feeds = [Path(folder) for folder in settings.feeds]
        self.feed = Feed(feeds, settings.weights, settings.seed, settings.batch, mesh["data"].get_local_rank(), ranks // sp)
        torch.manual_seed(settings.seed)
        self.model: TrainingModel = load_for_training(
            Path(settings.model), rope_base=settings.rope_base, length=settings.length, block=settings.block,
            checkpointing=settings.checkpointing,
        ).to(device)  # fmt: skip
        self.ulysses.check(self.model.lm.config.num_attention_heads, settings.length)
        shard(self.model, mesh["data", "sequence"]._flatten("all"), getattr(torch, settings.dtype))
        self.optimizer = adamw(self.model, settings.weight_decay)
        self.checkpoints = Checkpoints(Path(settings.folder) / "checkpoints", settings.keep, self.tell)
        self.first = self._resume()
        self._batches = iter(self.feed)
        self._warmup = warmup_steps(settings.steps, settings.warmup)

    def tell(self, line: str) -> None:
        if dist.get_rank() == 0:
            self._say(line)

    def _resume(self) -> int:
        known = self.checkpoints.load(self.model, self.optimizer)
        if known is None:
            return 0
        self.feed.resume(FeedState.from_json(known["feed"]))
        self.tell(f"goes on after step {known['step']}")
        return int(known["step"])

    def to_the_end(self, on_step: Callable[[StepFigures], None]) -> bool:
        """All steps that are left; False where the run was asked to stop before."""
        steps = self.settings.steps
        with _stop_asked() as asked:
            for step in range(self.first, steps):
                figures = self.step(step)
                if dist.get_rank() == 0:
                    on_step(figures)
                stop = _any(asked(), self.device)
                if stop or (step + 1) % self.settings.save_every == 0 or step + 1 == steps:
                    self.save(step + 1)
                self.checkpoints.seal_if_written()
                if stop and step + 1 < steps:
                    self.tell(f"asked to stop: saved after step {step + 1}; the same command goes on from there")
                    return False
        return True

    def save(self, done: int) -> None:
        """A checkpoint after so many steps; the feed's state is that of the rows which they consumed."""
        state = self.feed.state
        consumed = FeedState(state.seed, done * self.settings.batch, state.feeds, state.weights)
        self.checkpoints.save(done, self.model, self.optimizer, {"feed": consumed.as_json()})

    def step(self, step: int) -> StepFigures:
        """One optimizer step over a global batch."""
        began = time.perf_counter()
        ids, labels = _tensors(next(self._batches), self.device)
        waited = time.perf_counter() - began
        loss, _ = gradients(self.model, ids, labels, self.ulysses, dist.get_world_size())
        norm: Any = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step + 1}: loss {float(loss)}, gradient norm {float(norm)}: not a number. Nothing of this step is kept; "
                "start the same run again with a lower train.peak, or look at the sequences of this step"
            )
        rate = learning_rate(
            step, steps=self.settings.steps, peak=self.settings.peak, warmup=self._warmup, floor=self.settings.floor
        )
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - began
        tokens = self.settings.batch * self.settings.length
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        return StepFigures(
            step + 1, float(loss), rate, float(norm), tokens, seconds, waited / seconds, tokens / seconds, memory
        )  # fmt: skip


def _tensors(rows: list[FeedRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and shifted labels, `[n, T]`."""
    ids = torch.from_numpy(np.stack([row.input_ids for row in rows]).astype(np.int64))
    mask = torch.from_numpy(np.stack([row.loss_mask for row in rows]).astype(np.int64))
    return ids.to(device), shifted_labels(ids, mask).to(device)


def _any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any rank."""
    up = torch.tensor(float(flag), device=device)
    dist.all_reduce(up)
    return bool(up > 0)


@contextmanager
def _process_group() -> Iterator[torch.device]:
    """The ranks that the launcher started; NCCL and a GPU each where there are GPUs, else gloo."""
    import os

    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Whether a scheduler asked the process to end (SIGTERM): the step under way is finished and saved first."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
