"""The commands before the first run: doctor, init."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from entropylong.cli.options import ConfigOption, InputOption, Overrides, only_overrides
from entropylong.errors import UsageError

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import StructField

    from entropylong.config import Config
    from entropylong.corpus.sampling import Sample


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
        for found in examine(loaded):
            findings.append(found)
            status.update(f"looked at: {found.part}")
    if as_json:
        print(json.dumps([asdict(found) for found in findings]))
    else:
        console.print(findings_table(findings))
        broken = [found.part for found in findings if found.state == "fix"]
        print(f"To be fixed: {', '.join(broken)}." if broken else "Ready to run.")
    if any(found.state == "fix" for found in findings):
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
    from entropylong.config.loader import input_source
    from entropylong.corpus.init_config import config_text, what_was_seen
    from entropylong.corpus.sampling import look_at, sample_files
    from entropylong.utils.files import write_whole

    if not path.strip():
        raise UsageError("PATH_OR_TABLE is empty")
    ((name, source),) = input_source(path).items()
    file = out or Path(f"{name}.yaml")
    if file.exists() and not force:
        raise UsageError(f"{file} is there already; --out FILE writes another, --force writes over it")
    extends = "base" if torch.cuda.is_available() else "small"
    base = load_config(extends)
    if source["kind"] == "delta":
        sample = _sample_table(base, source)
    else:
        if "://" not in path:
            source["path"] = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (absolute() keeps ..)
        sample = sample_files(source["kind"], source["path"])
    look = look_at(sample, source["kind"], base.ingest.max_chars, text, doc_id)
    workspace = file.absolute().parent / "runs" / name
    lines = config_text(name, source, look, base, extends, workspace, path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lines)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    load_config(file)
    table = Table(title=escape(f"{path} ({source['kind']})"), show_header=False)
    for label, value in what_was_seen(look, base):
        table.add_row(label, escape(value))
    Console().print(table)
    print(f"Wrote {file}; what is made of the corpus goes to {workspace}. Next:")
    for command in ("doctor", "plan", "run", "report"):
        print(f"  entropylong {command} --config {shlex.quote(str(file))}")


def _sample_table(base: Config, source: dict[str, Any]) -> Sample:
    """A sample of a Delta table, by Spark; so many records of it as a driver can hold, also of books."""
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    from entropylong.corpus.sampling import FILE_BYTES, FILE_RECORDS, FILES, Sample
    from entropylong.errors import SourceError
    from entropylong.spark.session import session
    from entropylong.storage.store import quoted

    reader = session(base).read.format("delta")
    try:
        frame = reader.table(source["table"]) if "table" in source else reader.load(source["path"])
        some = frame.select(*map(_light, frame.schema)).limit(FILES * FILE_RECORDS)
        sizes = [
            F.coalesce(F.length(quoted(field.name, None)), F.lit(0))
            for field in some.schema
            if isinstance(field.dataType, (T.StringType, T.BinaryType))
        ]
        mean = some.agg(F.avg(sum(sizes, F.lit(1)))).collect()[0][0] or 1.0
        rows = some.limit(max(1, int(FILES * FILE_BYTES / mean))).collect()
        return Sample([row.asDict() for row in rows], float(frame.count()))
    except PySparkException as error:
        raise SourceError(f"cannot read {source.get('table') or source['path']}: {' '.join(str(error).split())[:160]}") from None


def _light(field: StructField) -> Column:
    """The column; of what is nested only that it is there: it can be neither text nor id, and vectors are large."""
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    from entropylong.storage.store import quoted

    column = F.col(quoted(field.name, None))
    if isinstance(field.dataType, T.ArrayType):
        return F.when(column.isNotNull(), F.array()).alias(field.name)
    if isinstance(field.dataType, (T.StructType, T.MapType)):
        return F.when(column.isNotNull(), F.create_map()).alias(field.name)
    return column
