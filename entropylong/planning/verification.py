"""What verification would cost, done in each of the ways that there are. Pure arithmetic.

Anchors are taken to lie evenly over a root, so the last of n stands at n / (n + 1) of it, and chunks to be retrieved equally often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from entropylong.config import Config
from entropylong.models.shape import ModelShape
from entropylong.planning.sizes import Sizes
from entropylong.verification.reuse import is_worthwhile, shared_cost, whole_cost
from entropylong.verification.screens import SCREENS
from entropylong.verification.screens.base import Screen, ScreenReading
from entropylong.verification.screens.left_window import LeftWindow
from entropylong.verification.waves import WAVE

# Where the config has no budget or screen: what it would cost with this one.
BUDGET_TOKENS = 8192
SCREEN = LeftWindow()
LITERAL, EXACT, WAVES, SCREENED, BOTH = "literal", "exact", "budget", "screened", "budget and screen"


@dataclass(frozen=True)
class Work:
    """Forward passes.

    Attributes:
        passes: their number.
        tokens: forwarded, the screen's among them.
        flops: of them all.
    """

    passes: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.passes + other.passes, self.tokens + other.tokens, self.flops + other.flops)


@dataclass(frozen=True)
class Way:
    """One way to verify.

    Attributes:
        name: literal, exact, budget, screened, budget and screen.
        about: what it does.
        work: what it costs.
        configured: whether the config asks for it.
    """

    name: str
    about: str
    work: Work
    configured: bool


def ways_to_verify(config: Config, sizes: Sizes, shape: ModelShape) -> list[Way]:
    """The literal way first, then ours.

    Args:
        config: with or without a budget and a screen.
        sizes: of the run.
        shape: of the causal LM.
    """
    verify = config.verify
    budget, has_budget = verify.budget_tokens or BUDGET_TOKENS, bool(verify.budget_tokens)
    configured = SCREENS[verify.screen.kind].reading
    reading, has_screen = configured or SCREEN, configured is not None
    visited = visited_pairs(config, sizes, budget)
    share = f"{visited / sizes.pairs_a_root:.0%} of the pairs"
    screen = reading.about(Screen.of(config))
    proposed = f"{config.plan.proposed_share:.0%} confirmed"
    controls = _controls(sizes, shape)
    screened = _screened(reading, config, sizes, shape)
    whole = _exact(config, sizes, shape)
    part = visited / sizes.pairs_a_root
    return [
        Way(LITERAL, "one whole pass with full logits a (anchor, candidate)", _literal(sizes, shape), False),
        Way(EXACT, f"one pass a pair, cut after its last anchor, head there alone; {_sharing(config, sizes, shape)}",
            _reused(config, sizes, shape, whole) + controls, not has_budget and not has_screen),
        Way(WAVES, f"exact, in rank order until {budget:,} tokens a root are accepted: {share}",
            _times(whole, part) + controls, has_budget and not has_screen),
        Way(SCREENED, f"{screen} looks at every pair, {proposed}", screened + controls, has_screen and not has_budget),
        Way(BOTH, f"{screen} until {budget:,} tokens a root are accepted: {share}, of them {proposed}",
            _times(screened, part) + controls, has_budget and has_screen),
    ]  # fmt: skip


def visited_pairs(config: Config, sizes: Sizes, budget: int) -> float:
    """Pairs of a root that waves visit: as many as hold the budget at the accepted share, in whole waves."""
    needed = math.ceil(budget / max(1.0, sizes.context_tokens)) / config.plan.accepted_share
    return min(sizes.pairs_a_root, math.ceil(needed / WAVE) * WAVE)


def _last_of(anchors: float) -> float:
    return anchors / (anchors + 1)


def _passes(shape: ModelShape, number: float, tokens: float, rows: float) -> Work:
    return Work(number, number * tokens, number * shape.flops(tokens, tokens * tokens / 2, rows))


def _times(work: Work, factor: float) -> Work:
    return Work(work.passes * factor, work.tokens * factor, work.flops * factor)


def _literal(sizes: Sizes, shape: ModelShape) -> Work:
    tokens = sizes.front_tokens + sizes.root_tokens
    return _passes(shape, sizes.cells, tokens, tokens)


def _read_anchors(config: Config, sizes: Sizes) -> float:
    return sizes.anchors if config.verify.scope == "all" else min(config.plan.anchors_per_pair, sizes.anchors)


def _cut_root(config: Config, sizes: Sizes) -> float:
    return sizes.root_tokens * _last_of(_read_anchors(config, sizes))


def _exact(config: Config, sizes: Sizes, shape: ModelShape) -> Work:
    return _passes(shape, sizes.pairs, sizes.front_tokens + _cut_root(config, sizes), _read_anchors(config, sizes))


def _controls(sizes: Sizes, shape: ModelShape) -> Work:
    return _passes(shape, sizes.controls, sizes.front_tokens + sizes.root_tokens * _last_of(sizes.anchors), sizes.anchors)


def _screened(reading: ScreenReading, config: Config, sizes: Sizes, shape: ModelShape) -> Work:
    """The screen's passes over all pairs, and exact ones over what it proposes and over the held-out sample."""
    screen, together = Screen.of(config), min(config.plan.anchors_per_pair, sizes.anchors)
    confirmed = config.plan.proposed_share * (1 - screen.sample) + screen.sample
    exact = _times(_exact(config, sizes, shape), confirmed)
    if not reading.needs_model:
        return exact
    last = sizes.root_tokens * _last_of(together)
    span = sizes.root_tokens * (together - 1) / (together + 1)
    return _passes(shape, sizes.pairs, reading.tokens(screen, sizes.front_tokens, last, span, min), together) + exact


def pairs_a_chunk(config: Config, sizes: Sizes) -> float:
    """Roots of one unit of work that share a chunk (r), if all chunks are equally often retrieved."""
    pairs = min(sizes.roots, config.run.roots_per_unit) * sizes.pairs_a_root
    # Of n balls thrown into N boxes, those in a box that holds any.
    return pairs / (sizes.chunks * -math.expm1(-pairs / sizes.chunks))


def _shares(config: Config, sizes: Sizes, shape: ModelShape) -> bool:
    return is_worthwhile(shape, sizes.front_tokens, pairs_a_chunk(config, sizes), _cut_root(config, sizes))


def _sharing(config: Config, sizes: Sizes, shape: ModelShape) -> str:
    ratio = pairs_a_chunk(config, sizes)
    if _shares(config, sizes, shape):
        return f"a chunk's keys and values shared by {ratio:.1f} roots"
    return f"a chunk's keys and values not shared ({ratio:.2f} pairs a chunk in a unit of {config.run.roots_per_unit:,} roots)"


def _reused(config: Config, sizes: Sizes, shape: ModelShape, whole: Work) -> Work:
    """Exact work with keys and values computed once a chunk and unit, where that is worthwhile."""
    if not _shares(config, sizes, shape):
        return whole
    front, root, ratio = sizes.front_tokens, _cut_root(config, sizes), pairs_a_chunk(config, sizes)
    saved = sizes.pairs * (whole_cost(shape, front, root) - shared_cost(shape, front, ratio, root) / ratio)
    tokens = sizes.pairs * (root + front / ratio)
    return Work(whole.passes, tokens, whole.flops - 2 * shape.body_parameters * saved)
