"""What a training run needs, before anything is spent: memory of a GPU, steps, tokens, hours at a stated rate. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from entropylong.config import Config
from entropylong.errors import ModelError
from entropylong.models.hardware import HERE, PEAKS, peak_here, this_device
from entropylong.models.prepare import ModelSpec, prepare
from entropylong.models.shape import KNOWN, ModelShape, is_tied, shape_of
from entropylong.training.optimizer import warmup_steps
from entropylong.training.settings import check_ranks, training_flops

GIB = 1 << 30


@dataclass(frozen=True)
class Description:
    """A run by its figures.

    Attributes:
        parameters: of the model.
        ranks, data_parallel, accumulation: processes, sequences at a time, sequences that each rank group adds up in a step.
        steps, warmup, tokens: of the run; a step's tokens are `tokens / steps`.
        memory: bytes of one GPU by what holds them; host: bytes of activations in the host's memory, a GPU.
        flops_a_token: forward and backward, recomputation left out.
        device, flops_a_second, hours: what one device computes, and the time at that rate.
    """

    parameters: int
    ranks: int
    data_parallel: int
    accumulation: int
    steps: int
    warmup: int
    tokens: int
    memory: dict[str, int]
    host: int
    flops_a_token: float
    device: str
    flops_a_second: float

    @property
    def load(self) -> int:
        return 4 * self.parameters

    @property
    def hours(self) -> float:
        return self.tokens * self.flops_a_token / (self.flops_a_second * self.ranks) / 3600

    @property
    def tokens_a_second(self) -> float:
        """Of one rank."""
        return self.flops_a_second / self.flops_a_token


def describe(config: Config) -> Description:
    """Figures of the run that a config asks for. Sizes are those of a dense transformer under FSDP2, estimated.

    Raises:
        ConfigError: its ranks cannot share the work.
        ModelError: the model's shape is not known.
    """
    train, length = config.train, config.pack.length
    shape, tied = _shape(config)
    ranks = train.ranks or 1
    check_ranks(ranks, train.sequence_parallel, train.batch, length, shape.heads)
    data_parallel = ranks // train.sequence_parallel
    tokens = train.steps * train.batch * length
    peak = _peak(config, shape)
    memory, host = _memory(config, shape, tied, ranks)
    return Description(
        parameters=_parameters(shape, tied),
        ranks=ranks,
        data_parallel=data_parallel,
        accumulation=train.batch // data_parallel,
        steps=train.steps,
        warmup=warmup_steps(train.steps, train.warmup),
        tokens=tokens,
        memory=memory,
        host=host,
        flops_a_token=training_flops(shape, 1, length / 2),
        device="this machine" if config.plan.device == HERE else config.plan.device,
        flops_a_second=peak * train.mfu,
    )


def _shape(config: Config) -> tuple[ModelShape, bool]:
    """The model's dimensions, and whether its head is its embedding: of a model at hand, or by name."""
    if (name := config.train.model or config.model.name) in KNOWN:
        return KNOWN[name], False
    try:
        folder = prepare(model_of(config), config.cache_folder).path
    except ModelError:
        if config.train.model is not None or config.model.name not in KNOWN:
            raise
        return KNOWN[config.model.name], False
    return shape_of(folder), is_tied(folder)


def model_of(config: Config) -> ModelSpec:
    """The model to begin with."""
    if config.train.model is None:
        return ModelSpec(config.model.name, config.model.revision).absolute()
    return ModelSpec(config.train.model).absolute()


def _parameters(shape: ModelShape, tied: bool) -> int:
    return shape.body_parameters + (1 if tied else 2) * shape.vocabulary * shape.width


def _peak(config: Config, shape: ModelShape) -> float:
    if config.plan.device == HERE:
        return peak_here(shape, config.train.dtype, this_device())
    return PEAKS[config.plan.device][1 if config.train.dtype == "float32" else 0]


def _memory(config: Config, shape: ModelShape, tied: bool, ranks: int) -> tuple[dict[str, int], int]:
    """Bytes of one GPU, and of the host for it."""
    train, item = config.train, 4 if config.train.dtype == "float32" else 2
    parameters = _parameters(shape, tied)
    layer = shape.body_parameters // shape.layers
    tokens = config.pack.length // train.sequence_parallel
    layer_inputs = shape.layers * tokens * shape.width * item
    # Of one layer in its backward pass: two norms, queries, keys, values and output, the feed-forward's products.
    widths = 4 * shape.width + 2 * shape.head_width * (shape.heads + shape.kv_heads) + (shape.matrices + 1) * shape.feed_forward
    inner = tokens * widths * item
    activations = layer_inputs + 2 * inner if train.checkpoint_activations else shape.layers * inner + inner
    host = 0
    if train.offload_activations:
        host = layer_inputs if train.checkpoint_activations else shape.layers * inner
        activations -= host
    memory = {
        "weights, gradients and moments in float32, sharded": 16 * parameters // ranks,
        "gathered: two layers, embeddings and head, a layer's gradients": (
            item * (2 * layer + parameters - shape.body_parameters) + (item + 4) * layer if ranks > 1 else 0
        ),
        "activations": activations,
        "logits of a block": train.logits_block * shape.vocabulary * (2 * item + 8),
    }
    return memory, host


def description_table(plan: Description, config: Config) -> Table:
    """The same for people."""
    train, length = config.train, config.pack.length
    table = Table(
        title=f"{train.mode} of {train.model or config.model.name}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("what")
    table.add_column("", justify="right")
    table.add_column("how", overflow="fold")
    rope = "the model's" if train.rope_base is None else f"{train.rope_base:,.0f}"
    table.add_row("parameters", f"{plan.parameters / 1e9:.2f}e9", f"RoPE base {rope}, computed in {train.dtype}")
    table.add_row(
        "ranks", str(plan.ranks), f"{plan.data_parallel} groups of {train.sequence_parallel} that share a sequence; "
        f"{plan.accumulation} sequences a group are added up in a step" + ("" if train.ranks else "; train.ranks states none"),
    )  # fmt: skip
    table.add_row(
        "steps", f"{plan.steps:,}", f"{train.batch} sequences of {length:,}: {train.batch * length / 1e6:.2f}M tokens each"
    )
    low = f"to {train.final_rate:.0%} of it" if train.final_rate else "to 0"
    table.add_row("rate", f"{train.learning_rate:g}", f"{plan.warmup} steps of warm-up, then a cosine {low}")
    table.add_row("tokens", f"{plan.tokens / 1e9:.2f}e9", f"{plan.steps * train.batch:,} sequences")
    table.add_section()
    for what, size in plan.memory.items():
        table.add_row(what, f"{size / GIB:.1f} GiB", "")
    table.add_row("memory of a GPU", f"{sum(plan.memory.values()) / GIB:.1f} GiB", "estimated; the allocator takes some more")
    table.add_row("host memory a GPU", f"{plan.load / GIB:.1f} GiB", "while the model is loaded, in float32")
    if plan.host:
        table.add_row("", f"{plan.host / GIB:.1f} GiB", "then: activations that wait there")
    table.add_section()
    table.add_row("FLOP a token", f"{plan.flops_a_token / 1e9:.0f}e9", "forward and backward, recomputation left out")
    table.add_row(
        "tokens/s a GPU", f"{plan.tokens_a_second:,.0f}",
        f"at train.mfu = {train.mfu:.0%} of {plan.device}'s peak of {plan.flops_a_second / train.mfu / 1e12:,.4g} TFLOP/s",
    )  # fmt: skip
    table.add_row("hours", f"{plan.hours:,.1f}", f"{plan.hours * plan.ranks:,.0f} GPU hours")
    return table
