"""One rank of a small training run: `torchrun tests/ranks.py MODEL OUT SP`. Writes loss and gradients of one global batch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from entropylong.training.loss import shifted_labels
from entropylong.training.model import Batch, gradients, load_for_training, shard
from entropylong.training.ulysses import Ulysses

SEQUENCES, LENGTH, CLIP = 4, 64, 0.05


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[4, 64]` and masks that count 61, 40, 7 and no tokens: averages of averages would be wrong."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 300, (SEQUENCES, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 30:33], mask[1, 40:], mask[2, 8:], mask[3, :] = 0, 0, 0, 0
    return ids, mask


def main(model: str, out: str, sp: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks // sp, sp), mesh_dim_names=("data", "sequence"))
    ulysses = Ulysses(mesh["sequence"].get_group())
    trained = load_for_training(Path(model), rope_base=None, length=LENGTH, block=24, checkpointing=True)
    shard(trained, mesh["data", "sequence"]._flatten("all"), torch.float32)
    ids, mask = batch()
    mine = slice(
        mesh["data"].get_local_rank() * SEQUENCES * sp // ranks, (mesh["data"].get_local_rank() + 1) * SEQUENCES * sp // ranks
    )
    loss, count = gradients(trained, Batch(ids[mine], shifted_labels(ids, mask)[mine]), ulysses, ranks)
    whole = {name: p.grad.full_tensor().clone() for name, p in trained.lm.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), CLIP).full_tensor()
    clipped = {name: p.grad.full_tensor().clone() for name, p in trained.lm.named_parameters() if p.grad is not None}
    if dist.get_rank() == 0:
        torch.save({"loss": loss, "count": count, "gradients": whole, "norm": norm, "clipped": clipped}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
