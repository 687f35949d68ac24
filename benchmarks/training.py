"""Training: the feed against what a step needs, block-wise loss against all logits at once (time and memory), waiting for data."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import ROOT, argument_parser, model_folder
from benchmarks.timing import record, say, seconds
from entropylong.config import load_config
from entropylong.models.shape import KNOWN, shape_of
from entropylong.training.data.manifest import FeedManifest, write_manifest
from entropylong.training.data.reader import Feed
from entropylong.training.data.rows import FILE_TOKENS, feed_table, write_file
from entropylong.training.describe import describe
from entropylong.training.loop import train
from entropylong.training.loss import IGNORED, blockwise_cross_entropy
from entropylong.training.settings import TrainSettings
from entropylong.training.steps import StepMetrics

SHAPE = KNOWN["HuggingFaceTB/SmolLM2-135M"]
STEP_TOKENS, STEPS = 256, 6


@dataclass(frozen=True)
class Size:
    """Pairs; of the loss: tokens, tokens a block, vocabulary, width; of the feed: tokens a row, rows."""

    pairs: int
    tokens: int
    block: int
    vocabulary: int
    width: int
    long: int
    rows: int


FULL, SMALL = Size(5, 4096, 512, SHAPE.vocabulary, SHAPE.width, 131_072, 64), Size(1, 512, 64, 8192, 32, 4096, 2)


def make_feed(folder: Path, rows: int, length: int, vocabulary: int) -> Path:
    """Random ids, as many to a file and a row group as `seal_feed` writes."""
    folder.mkdir(parents=True)
    rng, files, per_file = np.random.default_rng(0), [], max(1, FILE_TOKENS // length)
    for number, first in enumerate(range(0, rows, per_file)):
        ids = list(range(first, min(rows, first + per_file)))
        zeros, ones = np.zeros(length), np.ones(length)
        table = feed_table(ids, [(rng.integers(2, vocabulary, length), ones, zeros, zeros) for _ in ids])
        files.append(write_file(folder, number, table))
    write_manifest(folder, FeedManifest("random", "random", 0, length, tuple(files)))
    return folder


def all_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss as one writes it first."""
    return F.cross_entropy((hidden @ weight.T).float(), labels, ignore_index=IGNORED, reduction="sum")


def loss_of(side: str, size: Size) -> Callable[[], None]:
    """Forward and backward of the loss of one sequence."""
    torch.manual_seed(0)
    hidden = torch.randn(size.tokens, size.width, requires_grad=True)
    # As a model's: larger ones give probabilities that are denormal numbers, on which a CPU takes ten times as long.
    weight = (0.02 * torch.randn(size.vocabulary, size.width)).requires_grad_()
    labels = torch.randint(0, size.vocabulary, (size.tokens,))

    def run() -> None:
        if side == "naive":
            all_logits(hidden, weight, labels).backward()
        else:
            blockwise_cross_entropy(hidden, labels, lambda states: states @ weight.T, size.block).backward()

    return run


def memory_of(side: str, size: Size) -> float:
    """Peak MiB of a process that does nothing else, above what it takes before."""
    command = [sys.executable, "-m", "benchmarks.training", "--memory-of", side]
    command += ["--small"] if size == SMALL else []
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def peak() -> float:
    """Of this process, in MiB. Not getrusage's: that one begins with what the parent took."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def the_loss(size: Size, pairs: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            times[side].append(seconds(loss_of(("ours", "naive")[side], size)))
        say(f"loss, pair {pair + 1} of {pairs}: ours {times[0][-1]:.2f} s, naive {times[1][-1]:.2f} s")
    record("loss", *times, tokens=size.tokens, block=size.block)
    memory = [[memory_of(side, size)] for side in ("ours", "naive")]
    record("loss_memory", *memory, unit="MiB", tokens=size.tokens, block=size.block)


def the_feed(folder: Path, size: Size, pairs: int) -> None:
    """Seconds a sequence, against what the published run takes for one of its length at `train.mfu` on 8 H100."""
    run = describe(load_config("train_128k"))
    needed = size.long / (run.tokens_a_second * run.ranks)
    feed = make_feed(folder, size.rows, size.long, SHAPE.vocabulary)

    def epoch() -> None:
        for _ in islice(iter(Feed([feed], [1.0], seed=0, batch=1)), size.rows):
            pass

    spent = [seconds(epoch) / size.rows for _ in range(pairs)]
    record("feed", spent, [needed] * pairs, tokens=size.long, rows=size.rows)


def the_wait(folder: Path, model: Path) -> None:
    """Share of a step that a model waits for its rows, the first left out: it opens the feed."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    feed = make_feed(folder / "feed", 8, STEP_TOKENS, shape_of(model).vocabulary)
    settings = TrainSettings(
        model=str(model), feeds=(str(feed),), weights=(1.0,), folder=str(folder / "run"), length=STEP_TOKENS,
        batch=1, steps=STEPS, learning_rate=1e-5, final_rate=0.0, warmup=0.0, weight_decay=0.1, clip=1.0, rope_base=None,
        dtype="float32", seed=0, checkpoint_activations=False, save_every=STEPS, node_cache=str(folder),
    )  # fmt: skip
    steps: list[StepMetrics] = []
    train(settings, steps.append)
    record("data_wait", [statistics.median(step.data_wait_share for step in steps[1:])], [], unit="share", tokens=STEP_TOKENS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The feed, the loss, the wait; or, in a process that the loss begins, the memory of one side."""
    parser = argument_parser(__doc__)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--memory-of", choices=("ours", "naive"))
    options = parser.parse_args(arguments)
    size = SMALL if options.small else FULL
    pairs = options.pairs or size.pairs
    if options.memory_of:
        run = loss_of(options.memory_of, size)
        before = peak()
        run()
        print(peak() - before)
        return
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        the_feed(Path(folder) / "long", size, pairs)
        the_loss(size, pairs)
        the_wait(Path(folder), model_folder(options.lm))


if __name__ == "__main__":
    main()
