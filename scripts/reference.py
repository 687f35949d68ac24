"""Write the pages of docs/ that are generated: stages from their declarations, tables, codes. `make docs` runs it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from entropylong.pipeline.steps import STEPS
from entropylong.storage.codes import CODES
from entropylong.storage.schemas import COMMON, TABLES, TableSchema

DOCS = Path(__file__).parent.parent / "docs"
_NOTE = "<!-- Written by scripts/reference.py from the code; `make docs` writes it anew. -->\n"
_TABLES = """# Tables

Delta tables under `tables:` (default `<workspace>/tables`; on Databricks `catalog.schema`), in the order of the data. Every row
has an `outcome`: *ok*; *skipped*, by a rule; *error*, damage, which counts against `quarantine.max_rate`. Only ok rows are read
further on. `fingerprint` is the partition column: the hash of all that the row depends on, explained in `artifacts`, so that
results of several settings stand side by side. Session views `current_<table>` show the ok rows of the settings at hand.
Thresholds are applied when packing: `gains` holds raw measurements.

| every table | type | |
|---|---|---|
"""
_STAGES = """# Stages

`entropylong run` takes these names. `jobs/` has a file for each, and the Databricks pipeline has a task for each. A stage that
needs a GPU runs a model; it also runs without a GPU, but slowly. To give each kind of stage its own cluster, submit stages by name:
`entropylong run score --config ...` continues where the stage stopped. The models are `model.name` and `encoder.name`.

"""
_CODES = """# Codes: why a row was skipped or refused

`entropylong quarantine` lists refused rows with the code and the detail; the report counts both kinds. A run fails when more than
`quarantine.max_rate` (5 %) of a stage's rows are errors. Skipped rows count against nothing.

"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def tables_page() -> str:
    """The data dictionary."""
    return _NOTE + _TABLES + _columns(COMMON) + "".join(_table(schema) for schema in TABLES.values())


def _columns(columns: Iterable[tuple[str, str, str]]) -> str:
    return "".join(f"| {name} | {_cell(ddl)} | {_cell(comment)} |\n" for name, ddl, comment in columns)


def _table(schema: TableSchema) -> str:
    stages = [step.name for step in STEPS if step.writes == schema.name]
    by = f" Written by `{'`, `'.join(dict.fromkeys(stages))}`." if stages else ""
    head = f"\n## {schema.name}\n\nOne row is {schema.row}. Key: {', '.join(f'`{key}`' for key in schema.key)}.{by}\n\n"
    return head + "| column | type | |\n|---|---|---|\n" + _columns(schema.columns)


def codes_page() -> str:
    """Codes, what they mean and what to do."""
    head = "| code | outcome | meaning | what to do |\n|---|---|---|---|\n"
    rows = [
        f"| {name} | {'skipped' if code.skipped else 'error'} | {_cell(code.meaning)} | {_cell(code.remedy)} |\n"
        for name, code in sorted(CODES.items())
    ]
    return _NOTE + _CODES + head + "".join(rows)


def stages_page() -> str:
    """Stages in order, what each reads, writes and needs."""
    head = "| stage | what it does | reads | writes, key | tasks need | models |\n|---|---|---|---|---|---|\n"
    rows = [
        f"| {step.name} | {_cell(step.purpose)} | {_names(step.reads) or 'the sources'} | `{step.writes}`: {_names(step.key)} "
        f"| {step.resources.upper()} | {', '.join(step.models)} |\n"
        for step in STEPS
    ]
    return _NOTE + _STAGES + head + "".join(rows)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PAGES = {"stages.md": stages_page, "tables.md": tables_page, "codes.md": codes_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
