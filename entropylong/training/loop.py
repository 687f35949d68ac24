"""The training run, as each of its ranks does it: rows, gradients, step, checkpoint. Pure torch and Petastorm.

Started by any launcher that sets RANK, WORLD_SIZE and MASTER_ADDR: TorchDistributor and torchrun alike.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from entropylong.errors import ModelError, TrainingError
from entropylong.models.attention_mask import check_kernel
from entropylong.models.hardware import peak_here
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.models.shape import shape_of
from entropylong.training.checkpoint import Checkpoints
from entropylong.training.data.reader import Feed, FeedRow, FeedState
from entropylong.training.data.segments import spans
from entropylong.training.export import export_model
from entropylong.training.loss import anchor_weights, shifted_labels
from entropylong.training.model import Batch, TrainingModel, gradients, load_for_training, shard
from entropylong.training.optimizer import adamw, schedule, warmup_steps
from entropylong.training.rope import check_rope
from entropylong.training.settings import RESULT, TrainSettings, check_ranks, training_flops
from entropylong.training.steps import STOP, StepMetrics
from entropylong.training.ulysses import Ulysses

logger = logging.getLogger(__name__)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def train(
    settings: TrainSettings,
    on_step: Callable[[StepMetrics], None],
    on_resume: Callable[[int], None] = lambda step: None,
) -> bool:
    """Train to the end, from the newest whole checkpoint if there is one. Every rank calls it; callbacks run on the first.

    Args:
        settings: of the run, the same on all ranks.
        on_step: what each step shows.
        on_resume: the step after which it goes on, 0 at the beginning.

    Returns:
        Whether the run is at its end; False where it was asked to stop and saved.

    Raises:
        TrainingError: a loss or a gradient is not a number.
        EntropyLongError: feeds, checkpoints or the number of ranks do not fit.
    """
    with _process_group() as device:
        run = _Run(settings, device)
        try:
            if dist.get_rank() == 0:
                on_resume(run.first)
            is_whole = run.to_the_end(on_step)
        finally:
            run.checkpoints.finish()  # whatever ends the run, what it saved counts
        if is_whole:
            export_model(run.model.lm, run.source, Path(settings.folder) / RESULT, settings.chat_template)
        return is_whole


class _Run:
    """Model, optimizer, feed and checkpoints of this rank."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        ranks, sp = dist.get_world_size(), settings.sequence_parallel
        self.source = local_model(settings)
        self.shape = shape_of(self.source)
        check_ranks(ranks, sp, settings.batch, settings.length, self.shape.heads)
        check_kernel(settings.attention, device, settings.dtype)
        mesh = init_device_mesh(device.type, (ranks // sp, sp), mesh_dim_names=("data", "sequence"))
        self.ulysses = Ulysses(mesh["sequence"].get_group(), settings.attention)
        feeds = [Path(folder) for folder in settings.feeds]
        self.feed = Feed(feeds, settings.weights, settings.seed, settings.batch, mesh["data"].get_local_rank(), ranks // sp)
        torch.manual_seed(settings.seed)
        self.model: TrainingModel = load_for_training(
            self.source, rope_base=settings.rope_base, length=settings.length, block=settings.logits_block,
            checkpointing=settings.checkpoint_activations, compiled=settings.compile,
        )  # fmt: skip
        # Sharded first: no GPU holds the whole model in float32.
        shard(self.model, mesh["data", "sequence"]._flatten("all"), getattr(torch, settings.dtype))
        self.model.to(device)
        self.optimizer = adamw(self.model, settings.learning_rate, settings.weight_decay)
        self.checkpoints = Checkpoints(Path(settings.folder) / "checkpoints", settings.keep)
        self.first = self._resume()
        check_rope(self.model.lm)
        # Every rank measures, as all of them share the machine while they train.
        self._peak = ranks * peak_here(self.shape, settings.dtype, device)
        self._batches = iter(self.feed)
        steps, warmup = settings.steps, warmup_steps(settings.steps, settings.warmup)
        self._schedule = schedule(self.optimizer, steps=steps, warmup=warmup, floor=settings.final_rate, done=self.first)

    def tell(self, line: str) -> None:
        if dist.get_rank() == 0:
            logger.info(line)

    def _resume(self) -> int:
        state = self.checkpoints.load(self.model, self.optimizer)
        if state is None:
            return 0
        self.feed.resume(FeedState.from_json(state["feed"]))
        self.tell(f"goes on after step {state['step']}")
        return int(state["step"])

    def to_the_end(self, on_step: Callable[[StepMetrics], None]) -> bool:
        """All steps that are left; False where the run was asked to stop before."""
        steps = self.settings.steps
        with _stop_asked(Path(self.settings.folder)) as has_request:
            for step in range(self.first, steps):
                figures = self.step(step)
                if dist.get_rank() == 0:
                    on_step(figures)
                stop = _any(has_request(), self.device)
                if stop or (step + 1) % self.settings.save_every == 0 or step + 1 == steps:
                    self.save(step + 1)
                self.checkpoints.seal_if_written()
                if stop and dist.get_rank() == 0:
                    (Path(self.settings.folder) / STOP).unlink(missing_ok=True)
                if stop and step + 1 < steps:
                    self.tell(f"asked to stop: saved after step {step + 1}; the same command goes on from there")
                    return False
        return True

    def save(self, done: int) -> None:
        """A checkpoint after so many steps; the feed's state is that of the rows which they consumed."""
        state = self.feed.state
        consumed = FeedState(state.seed, done * self.settings.batch, state.feeds, state.weights)
        self.checkpoints.save(done, self.model, self.optimizer, {"feed": consumed.as_json()})

    def step(self, step: int) -> StepMetrics:
        """One optimizer step over a global batch."""
        began = time.perf_counter()
        rows = next(self._batches)
        batch = self._batch(rows)
        waited = time.perf_counter() - began
        ranks = dist.get_world_size()
        loss, _ = gradients(self.model, batch, self.ulysses, ranks, self.settings.offload_activations)
        norm: Any = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step + 1}: loss {float(loss)}, gradient norm {float(norm)}: not a number. Nothing of this step is kept; "
                "the same command would come to the same step; look at its sequences, or begin another run with a lower "
                "train.learning_rate"
            )
        rate = float(self._schedule.get_last_lr()[0])
        self.optimizer.step()
        self._schedule.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - began
        tokens = self.settings.batch * self.settings.length
        return StepMetrics(
            step=step + 1,
            loss=float(loss),
            rate=rate,
            gradient_norm=float(norm),
            tokens=tokens,
            seconds=seconds,
            data_wait_share=waited / seconds,
            tokens_per_second=tokens / seconds,
            tokens_per_second_per_rank=tokens / seconds / ranks,
            mfu=training_flops(self.shape, tokens, self._keys(rows)) / seconds / self._peak,
            memory_gib=_peak_memory(self.device) / 2**30,
        )

    def _batch(self, rows: list[FeedRow]) -> Batch:
        """The rank's rows on its device."""

        def stacked(name: str, dtype: type) -> torch.Tensor:
            return torch.from_numpy(np.stack([getattr(row, name) for row in rows]).astype(dtype))

        ids = stacked("input_ids", np.int64)
        labels = shifted_labels(ids, stacked("loss_mask", np.int64))
        most = self.settings.anchor_weight
        weights = None if most is None else anchor_weights(stacked("nll_drop", np.float32), most).to(self.device)
        segments = stacked("segment", np.int64) if self.settings.segmented else None
        return Batch(ids.to(self.device), labels.to(self.device), weights, segments)

    def _keys(self, rows: list[FeedRow]) -> float:
        """(query, key) products of a global batch, as this rank's rows show them."""
        if not self.settings.segmented:
            return self.settings.batch * self.settings.length**2 / 2
        mine = sum((end - start) ** 2 / 2 for row in rows for start, end in spans(row.segment))
        return mine * self.settings.batch / len(rows)


def local_model(settings: TrainSettings) -> Path:
    """The model's folder on this machine, prepared once a node; the driver's may be another.

    Raises:
        ModelError: it is not the one that the driver saw.
    """
    model = prepare(ModelSpec(settings.model, settings.revision), Path(settings.node_cache))
    if settings.model_hash and model.fingerprint != settings.model_hash:
        raise ModelError(
            f"{settings.model}: this machine has other files ({model.fingerprint}) than the driver ({settings.model_hash})"
        )
    return model.path


def _peak_memory(device: torch.device) -> int:
    """Bytes, most at a time: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any rank."""
    up = torch.tensor(float(flag), device=device)
    dist.all_reduce(up)
    return bool(up > 0)


@contextmanager
def _process_group() -> Iterator[torch.device]:
    """The ranks that the launcher started; NCCL and a GPU each where there are GPUs, else gloo."""
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
def _stop_asked(folder: Path) -> Iterator[Callable[[], bool]]:
    """Whether someone asked the run to end: a scheduler (SIGTERM), a key (SIGINT), or the driver by a file, from another machine.

    Or whose launcher is gone. The step under way is finished and saved first.
    """
    signals: list[int] = []
    launcher = os.getppid()
    before = {number: signal.signal(number, lambda number, frame: signals.append(number)) for number in _STOP_SIGNALS}
    try:
        yield lambda: bool(signals) or (folder / STOP).exists() or os.getppid() != launcher
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
