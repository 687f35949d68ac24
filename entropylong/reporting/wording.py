"""What the keys of a config mean, in sentences: the acceptance rule, what was not measured. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping

from entropylong.config import Config
from entropylong.packing.recipes import RECIPES, recipe_of
from entropylong.verification.rules import RULES
from entropylong.verification.rules.base import Rule
from entropylong.verification.screens import SCREENS


def shown_metrics(recipe: str | None, figures: Mapping[str, float]) -> Mapping[str, float]:
    """Without those of dependencies where nothing was verified: a link by rank is none."""
    of_links = ("packed_dependencies", "distance_median", "distance_p90")
    record = RECIPES.get(recipe or "")
    if record is not None and record.keeps_dependencies:
        return figures
    return {name: value for name, value in figures.items() if name not in of_links}


def roots_rule(config: Config) -> str:
    """Which documents are roots."""
    own = config.roots
    many = "all" if own.limit is None else f"at most {own.limit:,}"
    return f"{many}, of {own.min_tokens:,} to {own.max_tokens:,} tokens; longer ones: {own.long}"


def anchors_rule(config: Config) -> str:
    """Where a root is said to be uncertain."""
    own = config.anchors
    text = f"H > mean + {own.alpha:g} standard deviations of the root's entropy, from token {own.min_position} on"
    if own.min_gap > 1:
        text += f", at least {own.min_gap} tokens apart"
    if own.word_start_only:
        text += ", at starts of words only"
    if own.max_per_root is not None:
        text += f", the {own.max_per_root} highest of a root"
    return text


def acceptance_rule(config: Config) -> list[str]:
    """All that a context must satisfy at an anchor."""
    return RULES[config.accept.rule].words(Rule.of(config.accept))


def settings(config: Config) -> list[tuple[str, str]]:
    """What else decides what is in the sequences."""
    pack, query = config.pack, config.query
    around = "on both sides of" if query.side == "both" else "before"
    fill = {
        "none": "padding, masked in the loss",
        "rejected": "chunks that were retrieved and not accepted",
        "random": "random chunks",
    }
    return [
        ("roots", roots_rule(config)),
        ("retrieval", f"{config.retrieval.top_k} chunks an anchor, by {query.window} tokens {around} it"),
        ("contexts", f"chunks of {config.chunks.unit.replace('_', ' ')}, cut to {config.contexts.max_tokens:,} tokens"),
        ("layout", f"{pack.layout}, contexts in order {pack.order.replace('_', ' ')}"),
        ("the rest of a sequence", fill[pack.filler]),
        ("uses of a chunk", "no limit" if pack.max_chunk_uses is None else f"at most {pack.max_chunk_uses} roots"),
        ("seed", str(config.seed)),
    ]


def chance(config: Config, figures: Mapping[str, float]) -> str | None:
    """How much of what was accepted is chance; None where no control was measured."""
    rule = config.accept.rule
    fdr, random = figures.get(f"fdr_{rule}"), figures.get(f"pass_rate_random_{rule}")
    if fdr is None or random is None:
        return None
    return (
        f"Random chunks pass the rule in force in {random:.1%} of their readings: so about {fdr:.0%} of what was accepted "
        "would have passed by chance (FDR: the pass rate of random chunks over that of retrieved ones)."
    )


def limits(config: Config) -> list[str]:
    """What someone who uses the sequences should know."""
    notes = [
        "The token ids are of the tokenizer of the model that measured; another one cannot use them.",
        "`root_id` is the id of a document as its source gave it: look whether ids may be published.",
        "What is in the documents is in the sequences: errors, bias, personal data. Nothing was filtered but what is named here.",
    ]
    if recipe_of(config).is_verified:
        notes.append("A dependency is what one model measured with the context directly in front of its root. "
                     "In a sequence other pieces may stand between them.")  # fmt: skip
    notes.append(
        "Text was compared with the evaluation sets word for word: a paraphrase or a translation of them is not found."
        if config.corpus.exclude
        else "No evaluation set was kept out (corpus.exclude was empty): results on public benchmarks may be contaminated."
    )
    if config.verify.budget_tokens is not None:
        notes.append(f"Candidates of a root were read until its contexts held {config.verify.budget_tokens:,} tokens; "
                     "those behind were not measured.")  # fmt: skip
    if (limit := SCREENS[config.verify.screen.kind].limit) is not None:
        notes.append(limit)
    return notes
