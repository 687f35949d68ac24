"""What the left-window screen saves, and what it costs in recall: exact verification against screen and confirmation.

Every candidate is measured exactly and screened, so the recall at any `min_gain` is known; the time is that of the keys' defaults.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.common import DEMO, START_ID, argument_parser, model_folder
from benchmarks.material import Material, Root
from benchmarks.timing import record, say, seconds
from entropylong.config import load_config
from entropylong.models.causal_lm import CausalLM
from entropylong.verification.calibration import recall_bound
from entropylong.verification.measuring import Pair, PairReading, measure
from entropylong.verification.rules import RULES
from entropylong.verification.rules.acceptance import ReadingKind, Readings, judge
from entropylong.verification.rules.base import Rule
from entropylong.verification.screens.base import Candidate, Screen
from entropylong.verification.screens.left_window import RECORD, LeftWindow

# Nearer to the lengths of base.yaml than the demo is: what a window saves grows with the root.
SETTING = {"root_tokens": (512, 1024), "context_tokens": 256, "anchors": 12, "top_k": 2}
SMALL = {"root_tokens": (128, 160), "context_tokens": 32, "anchors": 4, "top_k": 1}
LEAST_GAINS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)


def exact(model: CausalLM, pairs: list[Pair], separator: list[int]) -> dict[int, PairReading]:
    """Readings by chunk."""
    readings = measure(model, pairs, separator_ids=separator, batch_tokens=4096)
    return {pair.tag: reading for pair, reading in readings}


def dependencies(root: Root, readings: dict[int, PairReading], rule: Rule) -> set[int]:
    """The chunks that the rule accepts at an anchor that retrieved them."""
    cells = [(chunk, i) for chunk in readings for i in range(len(root.anchors))]
    at = np.array([root.anchors[i] for _, i in cells], np.int32)
    kinds = [ReadingKind.RETRIEVED if chunk in root.hits[root.anchors[i]] else ReadingKind.SAME_ROOT for chunk, i in cells]
    accepted = judge(
        Readings(
            position=at,
            kind=np.array(kinds, object),
            entropy=root.entropy[at].astype(np.float64),
            nll=root.nll[at].astype(np.float64),
            entropy_with=np.array([readings[c].entropy_with[i] for c, i in cells], np.float64),
            nll_with=np.array([readings[c].nll_with[i] for c, i in cells], np.float64),
            copy_len=np.array([readings[c].copy_len[i] for c, i in cells], np.int32),
        ),
        rule,
    ).accepted
    return {chunk for (chunk, _), yes in zip(cells, accepted.tolist(), strict=True) if yes}


def main(arguments: Sequence[str] | None = None) -> None:
    """A pair a root: all candidates exactly, and the screen with the confirmation of what it proposes."""
    base = load_config("base")
    parser = argument_parser(__doc__)
    parser.add_argument("--roots", type=int)
    parser.add_argument("--window", type=int, default=base.verify.screen.window)
    parser.add_argument("--min-gain", type=float, default=base.verify.screen.min_gain)
    options = parser.parse_args(arguments)
    roots = options.roots or (1 if options.small else 16)
    model = CausalLM(model_folder(options.lm), "float32", START_ID)
    separator = model.encode(base.separator)
    material = Material(model, model_folder(options.encoder), roots, **(SMALL if options.small else SETTING))
    screen = Screen(RECORD.name, options.min_gain, options.window, 0.0, DEMO.seed)
    rules = {name: Rule(**(base.accept.model_dump() | {"rule": name})) for name in RULES}
    times: tuple[list[float], list[float]] = ([], [])
    best: dict[str, list[float]] = {name: [] for name in rules}
    tokens = np.zeros(4)  # exact at scope all, at scope retrieved, screen, pairs
    strongest: list[float] = []
    for number, root in enumerate(material.roots):
        pairs = root.pairs(material.chunks, "all")
        positions = [np.array(root.retrieved(pair.tag), np.int32) for pair in pairs]
        candidates = [
            Candidate(pair.root_ids, pair.chunk_ids, at, root.entropy[at].astype(np.float64))
            for pair, at in zip(pairs, positions, strict=True)
        ]
        readings: dict[int, PairReading] = {}
        gains: list[float] = []

        def confirm(pairs: list[Pair] = pairs, candidates: list[Candidate] = candidates, gains: list[float] = gains) -> None:
            gains += [float(g.max()) for g in LeftWindow().gains(screen, model, candidates, separator, 4096)]
            exact(model, [p for p, gain in zip(pairs, gains, strict=True) if gain >= screen.min_gain], separator)

        for side in (0, 1) if number % 2 else (1, 0):
            if side:
                times[1].append(seconds(lambda pairs=pairs, readings=readings: readings.update(exact(model, pairs, separator))))
            else:
                times[0].append(seconds(confirm))
        strongest += gains
        for name, rule in rules.items():
            chunks = dependencies(root, readings, rule)
            best[name] += [gain for pair, gain in zip(pairs, gains, strict=True) if pair.tag in chunks]
        for pair, at in zip(pairs, positions, strict=True):
            front = len(pair.chunk_ids)
            window = front + at[-1] - max(0, at[0] - screen.window)
            tokens += (front + pair.positions[-1], front + at[-1], window, 1)
        say(f"screens, root {number + 1} of {roots}: screened {times[0][-1]:.1f} s, exact {times[1][-1]:.1f} s")
    curve = []
    for least in LEAST_GAINS:
        proposed = float(np.mean([gain >= least for gain in strongest]))
        curve.append({"min_gain": least, "proposed": round(proposed, 3)})
        for scope, whole in (("all", tokens[0]), ("retrieved", tokens[1])):
            curve[-1][f"saving_{scope}"] = round(1 - proposed - tokens[2] / whole, 3)
        for name, positives in best.items():
            hits = sum(gain >= least for gain in positives)
            curve[-1] |= {f"recall_{name}": round(hits / max(1, len(positives)), 3)}
            curve[-1] |= {f"recall_low_{name}": round(recall_bound(hits, max(1, len(positives))), 3)}
        say(str(curve[-1]))
    positives_by_rule = {f"positives_{name}": len(positives) for name, positives in best.items()}
    record(
        "screen_left_window", *times, roots=roots, pairs_screened=int(tokens[3]), window=options.window,
        min_gain=options.min_gain, curve=curve, **positives_by_rule,
    )  # fmt: skip


if __name__ == "__main__":
    main()
