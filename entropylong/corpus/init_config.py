"""`entropylong init`: from a look at a corpus to a config file in which each value says why it stands there. Pure Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entropylong.config.sources import SOURCE_ENDINGS, TABLE_SOURCES
from entropylong.corpus.sampling import CorpusProfile
from entropylong.corpus.sources.registry import SOURCES

# Of the roots that a first run takes: minutes on two cores, some minutes of a GPU.
FIRST_ROOTS = {"small": 20, "base": 2000}
# Fewer long documents than this share, and the least length of a root is lowered to what a quarter of them reach.
ENOUGH_LONG = 0.05
LEAST_ROOT = 64


def config_text(
    name: str, source: dict[str, Any], profile: CorpusProfile, base: Any, extends: str, workspace: Path, corpus: str
) -> str:
    """The YAML file's text.

    Args:
        name: of the source.
        source: its kind and its path or table.
        profile: of the corpus.
        base: the config that the file extends, for the values that it would have.
        extends: its name.
        workspace: of the runs.
        corpus: the corpus as the user named it.
    """
    lines = [
        f"# Written by `entropylong init` from {len(profile.sample.records):,} of about {profile.sample.documents:,.0f} records",
        f"# of {_scalar(corpus)}.",
        "# conf/base.yaml explains every key; any of them can stand here, or on the command line as key.sub=value.",
        f"extends: {extends}",
        "# Tables, checkpoints, figures and reports of this corpus; results of several settings stand beside each other there.",
        f"workspace: {_scalar(str(workspace))}",
        "sources:",
        f"  {name}:",
        f"    # How it is read, by the endings found there: {' | '.join([*SOURCE_ENDINGS, *TABLE_SOURCES])}.",
        f"    kind: {source['kind']}",
        "    # Where it lies. It may move: results do not depend on the place. New files, or rows, are new documents.",
        *(f"    {key}: {_scalar(source[key])}" for key in ("path", "table") if key in source),
        "    # both: documents are roots (whose gaps are filled) and text to retrieve from. root | corpus: one of the two.",
        "    role: both",
        *_columns(profile, source["kind"]),
        *_roots(profile, base, extends),
    ]
    return "\n".join(lines) + "\n"


def _scalar(value: str) -> str:
    """A JSON string is a YAML string, whatever is in it."""
    return json.dumps(value, ensure_ascii=False)


def _columns(profile: CorpusProfile, kind: str) -> Iterator[str]:
    if SOURCES[kind].one_document_a_file:
        return
    yield "    columns:"
    yield f"      # What is read: {profile.text.why}."
    yield f"      text: {_scalar(profile.text.column or 'text')}"
    yield f"      # What a document is called, here and in what is made of it: {profile.doc_id.why}."
    yield f"      doc_id: {'null' if profile.doc_id.column is None else _scalar(profile.doc_id.column)}"


def _roots(profile: CorpusProfile, base: Any, extends: str) -> Iterator[str]:
    least = least_root(profile, base)
    share = profile.share_above(least * base.plan.chars_per_token)
    yield "roots:"
    yield "  # For a first look. null takes all of them; what is measured by then is not measured again."
    yield f"  limit: {FIRST_ROOTS[extends]}"
    yield f"  # Shorter documents are text to retrieve from, not roots. About {share:.0%} of yours are long enough (by characters)."
    if least < base.roots.min_tokens:
        yield f"  # The default of {base.roots.min_tokens} would leave hardly any; short texts have few uncertain positions."
    yield f"  min_tokens: {least}"
    if profile.chars and base.roots.max_tokens < max(profile.chars) / base.plan.chars_per_token:
        yield f"  # Those above roots.max_tokens ({base.roots.max_tokens:,}) are cut there. split makes several roots of them."
        yield "  long: truncate"


def least_root(profile: CorpusProfile, base: Any) -> int:
    """`roots.min_tokens` for this corpus: the default where enough documents reach it."""
    tokens = base.plan.chars_per_token
    if profile.share_above(base.roots.min_tokens * tokens) >= ENOUGH_LONG:
        return int(base.roots.min_tokens)
    longest_quarter = sorted(profile.chars)[3 * len(profile.chars) // 4]
    return int(max(LEAST_ROOT, min(base.roots.min_tokens, longest_quarter / tokens)))


def what_was_seen(profile: CorpusProfile, base: Any) -> Iterator[tuple[str, str]]:
    """Lines about the corpus, for people."""
    sample, tokens = profile.sample, base.plan.chars_per_token
    files = f" in {sample.files:,} file{'s'[: sample.files != 1]}, {sample.n_bytes / 1e6:,.1f} MB" if sample.files else ""
    yield "records", f"about {sample.documents:,.0f}{files}; looked at: {len(sample.records):,}"
    if sample.others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sample.others.most_common())
        yield "not read", f"{kinds}: files of another kind; give their own folder, or add a source to the config"
    yield "text", f"{profile.text.column!r}: {profile.text.why}"
    yield "id", f"{profile.doc_id.column!r}: {profile.doc_id.why}" if profile.doc_id.column else profile.doc_id.why
    yield "length", f"median {profile.median_chars:,.0f} characters, about {profile.median_chars / tokens:,.0f} tokens"
    least = least_root(profile, base)
    share = profile.share_above(least * tokens)
    none = "" if share else ": a run would find no root; join short records to documents first"
    yield "long enough for a root", f"{share:.0%} (roots.min_tokens {least}){none}"
    yield "exact copies", f"{profile.copies / len(profile.chars):.1%} of the sample; one of each is used"
    if profile.refused:
        codes = ", ".join(f"{count} {code}" for code, count in profile.refused.most_common())
        yield "left out or refused", f"{codes} of {len(sample.records):,} (docs/codes.md says what each means)"
    if profile.errors > base.quarantine.max_rate * len(sample.records):
        yield "mind", f"a run stops where over {base.quarantine.max_rate:.0%} are refused: mend them, or raise quarantine.max_rate"
