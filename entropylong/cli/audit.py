"""The command that looks at any long-context data set: `entropylong audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entropylong.cli.options import ConfigOption, DtypeOption, Overrides, only_overrides

LENGTH = 32_768


def audit(
    dataset: Annotated[
        Path,
        typer.Argument(help="JSON lines or parquet with text, or with input_ids of the model's tokenizer; a file or a folder."),
    ],
    words: Overrides = None,
    config: ConfigOption = "base",
    model: Annotated[str | None, typer.Option("--model", help="The model that reads. [model.name]")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Rows to look at, by hash.")] = 64,
    length: Annotated[
        int | None,
        typer.Option("--length", min=641, help="Tokens of a row; longer ones are cut. [what the model reads, to 32,768]"),
    ] = None,
    dtype: DtypeOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Where the audit is kept. [WORKSPACE/audit]")] = None,
) -> None:
    """Does a long-context data set need its length? Tokens that need far context, distances, duplicates, contamination.

    Examples:

        entropylong audit runs/export --config demo corpus.exclude=[exam.jsonl]
    """
    from rich.console import Console

    from entropylong.config import load_config
    from entropylong.corpus.exclusion import open_excluded, prepare_excluded
    from entropylong.evaluation.audit.dataset import read_sample
    from entropylong.evaluation.audit.report import AUDIT, PICTURE, audit_sample, audit_table, keep_audit
    from entropylong.evaluation.judged import reading_model
    from entropylong.evaluation.tracking import track
    from entropylong.models.cache import load
    from entropylong.models.window import window_of
    from entropylong.utils.progress import counted_progress

    loaded = load_config(config, only_overrides(words))
    excluded = prepare_excluded(loaded)
    reader, path = reading_model(loaded, model, dtype, (length or 0) + 1)
    length = length or min(LENGTH, (window_of(path) or LENGTH + 1) - 1)
    sample = read_sample(dataset, samples, loaded.seed)
    with counted_progress("audit", "documents") as progress:
        audited = audit_sample(load(reader), sample, length, open_excluded(excluded), loaded.run.batch_tokens, progress)
    content = excluded.content if excluded else None
    folder = out or Path(loaded.workspace) / "audit"
    result, figures = keep_audit(reader, dataset.resolve().name, sample, audited, length, content, folder)
    Console(highlight=False, width=120).print(audit_table(sample, figures))
    print(f"Each document, and a picture: {result.folder}")
    track(loaded, result, result.folder / AUDIT, result.folder / PICTURE)
