"""Checkpoints of a training run: sharded safetensors by torch.distributed.checkpoint, written while the run goes on. Pure torch.

A checkpoint counts once its list of files is written, which is last; one that was cut short is passed over, and told. Nothing in
it is pickled, and it can be read at another number of ranks.
"""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from entropylong.errors import CheckpointError
from entropylong.utils.files import write_whole

logger = logging.getLogger(__name__)

COMPLETE, STATE = "complete.json", "state.json"
# torch's own is no Exception.
_FAILURES = (Exception, CheckpointException)
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Checkpoints:
    """The checkpoints of one run, `step-00000010` and so on.

    Args:
        folder: on storage that all ranks see.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        # Of its own, as it talks beside the training step: on one group the two would wait for each other.
        self._group: Any = dist.new_group(backend="gloo")
        self._writing: tuple[Path, Future[Any]] | None = None

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
        """Begin to write a checkpoint; the one before is waited for. The tensors are copied before this returns.

        Args:
            step: optimizer steps done.
            model, optimizer: sharded alike on all ranks.
            state: what else a resumed run needs, as JSON.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.finish()
        target = self.folder / f"step-{step:08d}"
        if dist.get_rank() == 0:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            (target / STATE).write_text(json.dumps(state | {"step": step}))
        dist.barrier()
        writer = HuggingFaceStorageWriter(str(target), save_distributed=True)
        self._writing = (target, async_save(_tensors(model, optimizer), storage_writer=writer, process_group=self._group))  # type: ignore[assignment]

    def seal_if_written(self) -> None:
        """Let a checkpoint count as soon as it is written; called at every step."""
        if self._writing is not None and self._writing[1].done():
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, seal it, and remove all but the newest whole ones.

        Raises:
            CheckpointError: it could not be written (a full disk, say).
        """
        if self._writing is None:
            return
        target, future = self._writing
        self._writing = None
        try:
            future.result()
        except _FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{target}: cannot be written ({reason}); free some space, then start the same run again"
            ) from error
        if dist.get_rank() == 0:
            sizes = {file.name: file.stat().st_size for file in sorted(target.iterdir()) if file.name != COMPLETE}
            write_whole(target / COMPLETE, json.dumps(sizes))
            newest = [path for path in self._all() if _is_whole(path)][-self.keep :]
            for path in self._all():
                if path not in newest:
                    shutil.rmtree(path)

    def load(self, model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Any] | None:
        """Restore the newest whole checkpoint; what it knows besides, or None where there is none.

        Raises:
            CheckpointError: none of those that are there can be read.
        """
        folders = self._all()
        while folders and not _is_whole(folders[-1]):
            if dist.get_rank() == 0:
                logger.info("checkpoint %s was cut short: passed over", folders[-1].name)
            folders.pop()
        # The first rank's choice counts: another machine may see an older listing of the folder.
        chosen: list[str | None] = [folders[-1].name if folders else None]
        dist.broadcast_object_list(chosen, src=0, group=self._group)
        if chosen[0] is None:
            return None
        newest = self.folder / chosen[0]
        state: dict[str, Any] = json.loads((newest / STATE).read_text())
        _make_moments(optimizer, state["step"])
        try:
            load(_tensors(model, optimizer), storage_reader=HuggingFaceStorageReader(str(newest)))
        except _FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{newest}: cannot be read ({reason}); remove it to go on from the one before") from error
        return state

    def _all(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("step-*"))


def _is_whole(path: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((path / COMPLETE).read_text())
        return STATE in sizes and all((path / Path(name).name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Weights, and the optimizer's moments of each, by name."""
    tensors: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    return tensors


def _make_moments(optimizer: torch.optim.AdamW, step: int) -> None:
    """Moments as they are after `step` steps, to be filled."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            empty = {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(step)), **empty}
