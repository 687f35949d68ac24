"""Kinds of sources that lie in files, here or in an object store. Bytes are decoded in Python: Spark's own readers replace
broken UTF-8 silently. Needs pyarrow, no Spark."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.fs as pafs

from entropylong.config.sources import SOURCE_ENDINGS, SourceConfig
from entropylong.corpus.sources.base import Damaged, Extent, Row, Sample, Unit, UnitSource, one_line, unreadable
from entropylong.errors import SourceError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Files that are looked into at the same time.
_AT_ONCE = 32


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it: absolute, as executors have another working directory."""
    if "://" in path:
        system, inner = pafs.FileSystem.from_uri(path)
        return system, str(inner)
    return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())


def find(source: str, path: str) -> tuple[pafs.FileSystem, pafs.FileInfo]:
    """What lies at a source's path.

    Raises:
        SourceError: nothing, or it cannot be reached.
    """
    try:
        system, inner = filesystem(path)
        top = system.get_file_info(inner)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"source {source}: cannot reach {path}: {one_line(error)}") from None
    if top.type == pafs.FileType.NotFound:
        raise SourceError(f"source {source}: no such file or directory: {path}")
    if top.type == pafs.FileType.Unknown:
        raise SourceError(f"source {source}: neither a file nor a folder: {path}")
    return system, top


@dataclass(frozen=True)
class Listing:
    """Files at a source's path that are not hidden; of a folder at any depth.

    Attributes:
        files: in no order.
        folder: what names are relative to.
        is_file: the path is that of a file, which is read whatever its ending.
    """

    files: Sequence[pafs.FileInfo]
    folder: str
    is_file: bool


def list_files(source: str, path: str) -> Listing:
    """List what lies at a source's path.

    Raises:
        SourceError: nothing, or it cannot be listed.
    """
    system, top = find(source, path)
    inner = str(top.path)
    try:
        entries = [top] if top.is_file else system.get_file_info(pafs.FileSelector(inner, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"source {source}: cannot list {path}: {one_line(error)}") from None
    files = [info for info in entries if info.is_file and not info.base_name.startswith(("_", "."))]
    return Listing(files, inner.rpartition("/")[0] if top.is_file else inner, top.is_file)


class FileSource(UnitSource):
    """A kind that is read from files, which it knows by their endings."""

    def split(self, whole: Unit, unit_bytes: int, root: str) -> list[Unit]:
        """Cut a file into units of about `unit_bytes`, where the kind can be read from its middle."""
        return [whole]

    @abstractmethod
    def beginning(self, unit: Unit, root: str, extent: Extent) -> tuple[list[Row], float]:
        """Read the first records of a unit with their columns, and tell how many of its bytes they take.

        Raises:
            OSError, ValueError: or another error of `unreadable`: the file is damaged.
        """

    def list_units(self, source: str, path: str, unit_bytes: int) -> list[Unit]:
        """List files in name order, each cut into its units."""
        return self._units(list_files(source, path), source, path, unit_bytes)

    def _units(self, listing: Listing, source: str, path: str, unit_bytes: int) -> list[Unit]:
        files = [info for info in listing.files if listing.is_file or info.base_name.endswith(self.endings)]
        if not files:
            raise SourceError(f"source {source}: no {self.kind} file ({', '.join(self.endings)}) under {path}")

        def units_of(info: pafs.FileInfo) -> list[Unit]:
            relative = info.path.removeprefix(listing.folder).lstrip("/") or info.base_name
            whole = Unit(source, self.kind, info.path, f"{relative}@{info.size}", info.size)
            return self.split(whole, unit_bytes, path) if info.size > unit_bytes else [whole]

        # To cut a file may take a read of its footer: of one after the other each waits for the storage.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            in_name_order = sorted(files, key=lambda info: str(info.path))
            return [unit for units in pool.map(units_of, in_name_order) for unit in units]

    def sample(self, name: str, source: SourceConfig, session: Callable[[], SparkSession], extent: Extent) -> Sample:
        """Read the beginnings of some units, evenly spread, and extrapolate by bytes."""
        path = str(source.path)
        listing = list_files(name, path)
        units = [unit for unit in self._units(listing, name, path, extent.unit_bytes) if unit.n_bytes]
        step = max(1, -(-len(units) // (extent.documents if self.one_document_a_file else extent.units)))
        rows: list[Row] = []
        sampled_bytes = 0.0
        for unit in units[::step]:
            some, n_bytes = self._beginning(unit, path, extent)
            rows += some
            sampled_bytes += n_bytes
        total = sum(unit.n_bytes for unit in units)
        scale = max(1.0, total / sampled_bytes) if sampled_bytes else 0.0
        documents = float(len(units)) if self.one_document_a_file else len(rows) * scale
        files = len({unit.path for unit in units})
        return Sample(rows, documents, scale, files, total, self._others(listing))

    def _beginning(self, unit: Unit, root: str, extent: Extent) -> tuple[list[Row], float]:
        try:
            return self.beginning(unit, root, extent)
        except unreadable() as error:
            return [Damaged("UNREADABLE_FILE", f"{unit.name}: {' '.join(str(error).split())[:200]}")], float(unit.n_bytes)

    def _others(self, listing: Listing) -> Counter[str]:
        """Count the files of a folder that are of another kind."""
        if listing.is_file:
            return Counter()
        names = [str(info.base_name) for info in listing.files if not info.base_name.endswith(self.endings)]
        return Counter(next((str(k) for k, ends in SOURCE_ENDINGS.items() if name.endswith(ends)), "other") for name in names)
