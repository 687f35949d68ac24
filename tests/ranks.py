"""A small training step on 1, 2 and 4 ranks: `python -m tests.ranks MODEL FOLDER`.

Writes, for each number of ranks, `FOLDER/<ranks>.pt`: loss and gradients of one global batch at each number of ranks that may
share a sequence. Ranks are processes of their own, forked from one that has loaded the libraries: seconds for each otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing import start_processes

from entropylong.training.loss import anchor_weights, shifted_labels
from entropylong.training.model import Batch, gradients, load_for_training, shard
from entropylong.training.ulysses import Ulysses

SEQUENCES, LENGTH, CLIP, MOST = 4, 64, 0.05, 5.0


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[4, 64]` and masks that count 61, 40, 7 and no tokens: averages of averages would be wrong."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 300, (SEQUENCES, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 30:33], mask[1, 40:], mask[2, 8:], mask[3, :] = 0, 0, 0, 0
    return ids, mask


def options() -> tuple[torch.Tensor, torch.Tensor]:
    """What the token drops by at verified anchors, and segments of several lengths, one of a single token; `[4, 64]` each."""
    drops = torch.zeros(SEQUENCES, LENGTH)
    drops[0, 5], drops[0, 40], drops[1, 39], drops[2, 3] = 0.5, 9.0, 1.2, -0.4
    segments = torch.zeros(SEQUENCES, LENGTH, dtype=torch.int64)
    segments[0, 20:], segments[0, 21:], segments[1, 33:], segments[2, 8:] = 1, 2, 1, -1
    return drops, segments


def step(model: str, ranks: int, sp: int) -> dict[str, Any]:
    """Loss and gradients with so many ranks to a sequence."""
    mesh = init_device_mesh("cpu", (ranks // sp, sp), mesh_dim_names=("data", "sequence"))
    ulysses = Ulysses(mesh["sequence"].get_group())
    trained = load_for_training(Path(model), rope_base=None, length=LENGTH, block=24, checkpointing=True)
    shard(trained, mesh["data", "sequence"]._flatten("all"), torch.float32)
    ids, mask = batch()
    drops, segments = options()
    share = SEQUENCES * sp // ranks
    mine = slice(mesh["data"].get_local_rank() * share, (mesh["data"].get_local_rank() + 1) * share)
    labels = shifted_labels(ids, mask)[mine]
    weighed = Batch(ids[mine], labels, anchor_weights(drops, MOST)[mine], segments[mine])
    results: dict[str, Any] = {}
    for name, own_batch, offload in (("plain", Batch(ids[mine], labels), False), ("options", weighed, True)):
        trained.zero_grad()
        loss, count = gradients(trained, own_batch, ulysses, ranks, offload)
        whole = {key: p.grad.full_tensor().clone() for key, p in trained.lm.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), CLIP).full_tensor()
        clipped = {key: p.grad.full_tensor().clone() for key, p in trained.lm.named_parameters() if p.grad is not None}
        results[name] = {"loss": loss, "count": count, "gradients": whole, "norm": norm, "clipped": clipped}
    return results


def rank(number: int, ranks: int, model: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{ranks}", rank=number, world_size=ranks)
    results = {sp: step(model, ranks, sp) for sp in (1, 2, 4) if sp <= ranks}
    if number == 0:
        torch.save(results, f"{folder}/{ranks}.pt")
    dist.destroy_process_group()


def main(model: str, folder: str) -> None:
    torch.set_num_threads(1)
    for ranks in (1, 2, 4):
        start_processes(rank, (ranks, model, folder), nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
