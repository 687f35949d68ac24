"""The commands before the first run: doctor, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entropylong.cli.options import ConfigOption, InputOption, Overrides, only_overrides
from entropylong.errors import UsageError


def doctor(
    words: Overrides = None,
    config: ConfigOption = "small",
    input_path: InputOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Is everything here that a run needs: Java, Spark, Delta, libraries, GPU, memory, disk, models, input. Ends with 1 if not.

    Examples:

        entropylong doctor

        entropylong doctor --config mine.yaml --json
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.status import Status

    from entropylong.config import load_config
    from entropylong.maintenance.doctor import examine, findings_table

    loaded = load_config(config, only_overrides(words), input_path)
    console = Console()
    findings = []
    with Status("looking", console=Console(stderr=True)) as status:
        for finding in examine(loaded):
            findings.append(finding)
            status.update(f"looked at: {finding.part}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        console.print(findings_table(findings))
        broken = [finding.part for finding in findings if finding.state == "fix"]
        print(f"To be fixed: {', '.join(broken)}." if broken else "Ready to run.")
    if any(finding.state == "fix" for finding in findings):
        raise typer.Exit(1)


def init(
    path: Annotated[str, typer.Argument(metavar="PATH_OR_TABLE", help="Your corpus: a file, a folder, or catalog.schema.table.")],
    out: Annotated[Path | None, typer.Option("--out", help="The config file; else named after the corpus.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="The column that holds the text; else found by looking.")] = None,
    doc_id: Annotated[str | None, typer.Option("--id", help="The column that holds the id; else found by looking.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Look at a corpus and write a config for it in which each value says why it stands there.

    Reads a few MB at most. Takes the small models where there is no GPU.

    Examples:

        entropylong init docs.jsonl

        entropylong init /data/crawl --text body --id url --out crawl.yaml

        entropylong init main.web.documents
    """
    import os
    import shlex

    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from entropylong.config import load_config
    from entropylong.config.sources import SourceConfig, input_source
    from entropylong.corpus.init_config import config_text, what_was_seen
    from entropylong.corpus.sampling import profile_corpus, sample_source
    from entropylong.corpus.sources.files import FileSource
    from entropylong.corpus.sources.registry import SOURCES
    from entropylong.spark.session import session
    from entropylong.utils.files import write_whole

    if not path.strip():
        raise UsageError("PATH_OR_TABLE is empty")
    ((name, source),) = input_source(path).items()
    file = out or Path(f"{name}.yaml")
    if file.exists() and not force:
        raise UsageError(f"{file} is there already; --out FILE writes another, --force writes over it")
    extends = "base" if torch.cuda.is_available() else "small"
    base = load_config(extends)
    if isinstance(SOURCES[source["kind"]], FileSource) and "://" not in path:
        source["path"] = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (absolute() keeps ..)
    sample = sample_source(SourceConfig(**source), lambda: session(base))
    profile = profile_corpus(sample, source["kind"], base.ingest.max_chars, text, doc_id)
    workspace = file.absolute().parent / "runs" / name
    lines = config_text(name, source, profile, base, extends, workspace, path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lines)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    load_config(file)
    table = Table(title=escape(f"{path} ({source['kind']})"), show_header=False)
    for label, value in what_was_seen(profile, base):
        table.add_row(label, escape(value))
    Console().print(table)
    print(f"Wrote {file}; what is made of the corpus goes to {workspace}. Next:")
    for command in ("doctor", "plan", "run", "report"):
        print(f"  entropylong {command} --config {shlex.quote(str(file))}")
