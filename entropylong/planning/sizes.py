"""How many rows and tokens each table would hold: from the size of the corpus and a handful of ratios. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from entropylong.config import Config
from entropylong.errors import ConfigError
from entropylong.planning.corpus import CorpusSize

# Of a root's positions, those above mean + 2 std: on docstrings and articles, with the demo's model.
ANCHOR_SHARE = 0.03
# Anchors fall by this factor's exponent with alpha: the paper's 913, 292 and 83 a root at 1.5, 2.0 and 2.5.
ALPHA_DECAY = 2.4


@dataclass(frozen=True)
class Sizes:
    """Rows and tokens of a run.

    Attributes:
        documents, tokens: of the whole corpus.
        chunks, chunk_tokens: retrieval units, and their mean length before the cut.
        context_tokens: of a chunk as it is prepended.
        separator_tokens: between chunk and root.
        roots, root_tokens: roots, and their mean length.
        anchors: a root.
        queries: anchors of all roots.
        cells: (anchor, candidate).
        pairs: unique (root, chunk) among them.
        controls: random pairs.
        accepted: pairs of a root that verification accepts.
        sequences: of pack.length tokens.
    """

    documents: float
    tokens: float
    chunks: float
    chunk_tokens: float
    context_tokens: float
    separator_tokens: int
    roots: float
    root_tokens: float
    anchors: float
    queries: float
    cells: float
    pairs: float
    controls: float
    accepted: float
    sequences: float

    @property
    def front_tokens(self) -> float:
        """Of a pass, before its root: start, chunk, separator."""
        return 1 + self.context_tokens + self.separator_tokens

    @property
    def pairs_a_root(self) -> float:
        return self.pairs / self.roots


def sizes_of(config: Config, corpus: CorpusSize) -> Sizes:
    """The sizes of a run of this config over such a corpus.

    Raises:
        ConfigError: the lengths or the number of anchors that `plan` states cannot be.
    """
    plan = config.plan
    for role, documents in (("root", corpus.roots), ("corpus", corpus.corpus)):
        if not documents:
            raise ConfigError(f"no document with role {role}: give a source the role {role} or both")
    document_tokens = corpus.chars / plan.chars_per_token
    roots = corpus.roots * config.roots.share
    roots = min(roots, config.roots.limit) if config.roots.limit else roots
    root_tokens = _root_tokens(config, document_tokens, is_all=roots == corpus.documents)
    anchors = _anchors(config, root_tokens)
    chunk_chars = corpus.chars if config.chunks.unit == "document" else min(corpus.chars, config.chunks.target_chars)
    chunk_tokens = chunk_chars / plan.chars_per_token
    context_tokens = min(chunk_tokens, config.contexts.max_tokens)
    separator_tokens = math.ceil(len(config.separator) / 2)
    pairs_a_root = anchors * config.retrieval.top_k / plan.anchors_per_pair
    accepted = pairs_a_root * plan.accepted_share
    packed = roots * min(1.0, accepted) * root_tokens + roots * accepted * (context_tokens + separator_tokens)
    return Sizes(
        documents=corpus.documents,
        tokens=corpus.documents * document_tokens,
        chunks=corpus.corpus * corpus.chars / chunk_chars,
        chunk_tokens=chunk_tokens,
        context_tokens=context_tokens,
        separator_tokens=separator_tokens,
        roots=roots,
        root_tokens=root_tokens,
        anchors=anchors,
        queries=roots * anchors,
        cells=roots * anchors * config.retrieval.top_k,
        pairs=roots * pairs_a_root,
        controls=roots * config.controls.per_root,
        accepted=accepted,
        sequences=packed / config.pack.length,
    )


def _root_tokens(config: Config, document_tokens: float, is_all: bool) -> float:
    tokens = config.plan.root_tokens
    if tokens is None:
        return max(config.roots.min_tokens, min(document_tokens, config.roots.max_tokens))
    if tokens > config.roots.max_tokens:
        raise ConfigError(f"key 'plan.root_tokens': {tokens} is above roots.max_tokens ({config.roots.max_tokens})")
    if is_all and tokens > document_tokens:
        raise ConfigError(
            f"key 'plan.root_tokens': {tokens} tokens a root, but every document is one, of {document_tokens:,.0f} on average; "
            "give plan.root_tokens=null plan.anchors_per_root=null"
        )
    return tokens


def _anchors(config: Config, root_tokens: float) -> float:
    rule, count = config.anchors, config.plan.anchors_per_root
    eligible = root_tokens - rule.min_position
    if eligible < 2:
        raise ConfigError(
            f"roots of {root_tokens:,.0f} tokens have no position beyond anchors.min_position ({rule.min_position}): no anchors"
        )
    if count is not None:
        # No more than 1 / (1 + alpha^2) of any numbers lie alpha standard deviations above their mean (Cantelli).
        most = eligible / (1 + rule.alpha**2) if rule.alpha > 0 else eligible
        if count > most:
            raise ConfigError(
                f"key 'plan.anchors_per_root': {count:g} of {eligible:,.0f} positions cannot exceed mean + {rule.alpha:g} std, "
                f"{most:,.0f} can at most; give a larger plan.root_tokens"
            )
        anchors = count
    else:
        anchors = eligible * min(1.0, ANCHOR_SHARE * math.exp(-ALPHA_DECAY * (rule.alpha - 2)))
    return min(anchors, rule.max_per_root or math.inf)
