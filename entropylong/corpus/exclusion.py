"""`corpus.exclude`: evaluation sets in files -> their 13-grams, kept in the workspace, copied once a node, memory-mapped.

Driver: reads the files, once for each content. Executors: `open_excluded`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from entropylong.config import Config
from entropylong.core.handles import Excluded
from entropylong.corpus.decontamination import GRAM, Grams, strings_in
from entropylong.corpus.sources.base import WHOLE_FILES, Damaged, Unit
from entropylong.corpus.sources.jsonl import JSONL, json_lines
from entropylong.errors import ExcludedFileError, SourceError
from entropylong.storage.array_files import MANIFEST, Contents, copy_once, read_array, read_manifest, write_array
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest, file_sha256
from entropylong.utils.locks import locked

EXCLUDE = "corpus.exclude"
_ARRAYS = ("hashes", "owners")
EXCLUDED_GRAMS = Contents(ExcludedFileError, "run the same command again")


def prepare_excluded(config: Config) -> Excluded | None:
    """The 13-grams of the sets in `corpus.exclude`, made where the workspace has not those of these contents yet.

    Returns:
        None for an empty list.

    Raises:
        SourceError: a file is missing, damaged, or has no text of 13 words.
        ExcludedFileError: what the workspace keeps of them is damaged.
    """
    if not config.corpus.exclude:
        return None
    units = [unit for path in config.corpus.exclude for unit in JSONL.list_units(EXCLUDE, path, WHOLE_FILES)]
    key = digest([GRAM, [[_name(unit), _hash(unit)] for unit in units]])
    directory = Path(config.workspace).absolute() / "exclude" / key
    directory.mkdir(parents=True, exist_ok=True)
    with locked(f"{directory}.lock"):
        if not (directory / MANIFEST).is_file():
            _write(directory, units)
    content = digest([GRAM, read_manifest(directory, EXCLUDED_GRAMS)["files"][0]["sha256"]])
    return Excluded(str(directory), content, file_sha256(directory / MANIFEST), str(config.cache_folder))


def _write(directory: Path, units: list[Unit]) -> None:
    grams = Grams.of((_name(unit), _texts(unit)) for unit in units)
    _require_all(grams, units)
    for name in _ARRAYS:
        write_array(directory / f"{name}.npy", getattr(grams, name))
    files = [{"path": f"{name}.npy", "sha256": file_sha256(directory / f"{name}.npy")} for name in _ARRAYS]
    write_whole(directory / MANIFEST, json.dumps({"n": len(grams.hashes), "names": grams.names, "files": files}, indent=1))


def _name(unit: Unit) -> str:
    return unit.name.rpartition("@")[0]


def _hash(unit: Unit) -> str:
    state = xxhash.xxh3_128()
    for line in _lines(unit):
        state.update(line.encode())
        state.update(b"\n")
    return state.hexdigest()


def _lines(unit: Unit) -> Iterator[str]:
    for line in json_lines(unit):
        if isinstance(line, Damaged):
            raise SourceError(f"{EXCLUDE}: {unit.path}: {line.detail}; mend or remove the file")
        yield line


def _texts(unit: Unit) -> Iterator[str]:
    """The strings of a file's records: of one JSON value, or of one a line."""
    lines = list(_lines(unit))
    try:
        records: list[Any] = [json.loads("\n".join(lines))]
    except (ValueError, RecursionError):
        records = [_record(unit, number, line) for number, line in enumerate(lines, start=1)]
    return strings_in(records)


def _record(unit: Unit, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{EXCLUDE}: {unit.path}: record {number} is not JSON: {reason}; mend or remove the file") from None


def _require_all(grams: Grams, units: list[Unit]) -> None:
    """A set whose texts all stand in an earlier one owns none either, and is no mistake: it is looked at by itself."""
    for number in set(range(len(units))) - set(np.unique(grams.owners).tolist()):
        if not len(Grams.of([("", _texts(units[number]))]).hashes):
            raise SourceError(f"{EXCLUDE}: {units[number].path}: no text of {GRAM} words, so nothing can match it; take it out")


_open: dict[Excluded, Grams] = {}


def open_excluded(excluded: Excluded | None) -> Grams | None:
    """The grams in this process, opened at first use; None where nothing is excluded.

    Raises:
        ExcludedFileError: a file does not match its manifest.
    """
    if excluded is None:
        return None
    if excluded not in _open:
        target = Path(excluded.node_cache) / "exclude" / f"{excluded.content}-{excluded.manifest_sha256[:16]}"
        folder = copy_once(Path(excluded.directory), excluded.manifest_sha256, target, EXCLUDED_GRAMS)
        hashes = read_array(folder / "hashes.npy", EXCLUDED_GRAMS, np.uint64, None)
        owners = read_array(folder / "owners.npy", EXCLUDED_GRAMS, np.uint32, len(hashes))
        _open.clear()
        _open[excluded] = Grams(np.asarray(hashes), np.asarray(owners), tuple(read_manifest(folder, EXCLUDED_GRAMS)["names"]))
    return _open[excluded]
