"""The commands that look after a workspace: check, refresh, gc, compact, quarantine."""

from __future__ import annotations

from typing import Annotated

import typer

from entropylong.cli.options import ConfigOption, InputOption, Overrides, Words, only_overrides, split_words
from entropylong.errors import CheckFailedError, UsageError
from entropylong.pipeline.open import open_runner, open_state


def check(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Look at what runs noted, at no table: the same at any size.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Does the workspace hold what it says? Nothing lost or doubled, index files whole, sequences and dependencies right.

    It reads the keys of every table. Exit code 1 if anything is wrong.

    Examples:

        entropylong check --config conf/demo.yaml

        entropylong check --quick --config conf/demo.yaml
    """
    import json

    from rich.console import Console

    from entropylong.maintenance.check import check_table, check_workspace, quick_check

    state = open_state(config, only_overrides(words), input_path)
    checks = quick_check(state) if quick else check_workspace(state)
    if as_json:
        print(json.dumps([vars(result) for result in checks]))
    else:
        Console(highlight=False).print(check_table(checks))
    if failures := sum(result.wrong > 0 for result in checks):
        raise CheckFailedError(
            f"{failures} of {len(checks)} checks found something wrong; rows behind are computed by: entropylong run"
        )


def refresh(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
) -> None:
    """Make a new generation of the index, over all corpus text that is there now. Until then new text is stored, not retrieved.

    The next run searches in it; what was measured of a pair is not measured again.

    Examples:

        entropylong refresh --config conf/demo.yaml
    """
    runner = open_runner(config, only_overrides(words), input_path, ["ingest", "chunk", "embed", "index"])
    is_new = runner.refresh()
    print(
        f"Index {runner.state.fingerprint('index')}: "
        + ("a new generation; go on with: entropylong run" if is_new else "the corpus is as it was.")
    )


def gc(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop it. Other configs that share the tables lose theirs.")] = False,
) -> None:
    """List (or drop) what stands in the tables under fingerprints that this config does not use: old generations, other settings.

    Examples:

        entropylong gc --config conf/demo.yaml

        entropylong gc --drop --config conf/demo.yaml
    """
    from rich.console import Console

    from entropylong.maintenance.tables import drop_leftovers, leftovers, leftovers_table

    state = open_state(config, only_overrides(words), input_path)
    entries = drop_leftovers(state) if drop else leftovers(state)
    if entries:
        Console().print(leftovers_table(entries, "Dropped" if drop else "Not used by this config (drop it with --drop)"))
    else:
        print("All rows belong to this config.")


def compact(
    words: Overrides = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="Also delete files that no version in use needs.")] = False,
) -> None:
    """Write the tables' small files anew as large ones. Rows, fingerprints and what is behind stay as they are.

    Examples:

        entropylong compact --vacuum --config conf/demo.yaml
    """
    from rich.console import Console

    from entropylong.maintenance.tables import compact as compact_tables
    from entropylong.maintenance.tables import compacted_table

    Console().print(compacted_table(compact_tables(open_state(config, only_overrides(words), input_path), vacuum)))


def quarantine(
    words: Words = None,
    config: ConfigOption = "base",
    input_path: InputOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows a table.")] = 50,
    retry: Annotated[bool, typer.Option("--retry", help="Take them out, so that the next run tries them again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the rows that were refused as errors, with their reasons; or give them another try.

    Examples:

        entropylong quarantine --config conf/demo.yaml --limit 10

        entropylong quarantine score verify --retry --config conf/demo.yaml
    """
    import json

    from rich.console import Console

    from entropylong.maintenance.quarantine import quarantine_rows, quarantine_table, retry_rows

    names, overrides = split_words(words)
    state = open_state(config, overrides, input_path)
    if retry:
        again = retry_rows(state, names)
        tally = ", ".join(f"{count} of {name}" for name, count in again.items())
        print(
            f"To be tried again: {tally}; run: entropylong run ..." if again else "No row was refused as an error by these stages."
        )
        return
    if names:
        raise UsageError(f"{names[0]!r} is not an override key.sub=value; stages are named with --retry alone")
    rows = quarantine_rows(state, limit)
    if as_json:
        print(json.dumps(rows))
    elif rows:
        Console().print(quarantine_table(rows))
    else:
        print("No row was refused as an error.")
