"""What a sealed feed holds: Parquet files of a table at one version, with their rows and hashes. Pure Python.

A feed is a folder of its own because Delta's files change under compaction and VACUUM, and rows that are gone stay in them.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from entropylong.errors import FeedError
from entropylong.utils.files import write_whole
from entropylong.utils.hashing import digest, file_sha256

MANIFEST = "manifest.json"
_FILE = re.compile(r"^part-\d{6}\.parquet$")
# Petastorm unpickles the metadata file of any folder that it opens.
_PICKLED = ("_common_metadata", "_metadata")


@dataclass(frozen=True)
class FeedFile:
    """One Parquet file of a feed.

    Attributes:
        sha256: of its bytes.
        content: hash of its rows, whatever wrote them.
        highest_id: of its tokens.
    """

    name: str
    rows: int
    sha256: str
    content: str
    highest_id: int


@dataclass(frozen=True)
class FeedManifest:
    """A sealed feed.

    Attributes:
        table: whose rows they are.
        fingerprint: of those rows.
        version: Delta version that was read.
        length: tokens of a row.
        files: in the order that `order.py` permutes.
    """

    table: str
    fingerprint: str
    version: int
    length: int
    files: tuple[FeedFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def identity(self) -> str:
        """Hash of the rows in their order: the same for every copy of this feed."""
        return digest([self.length, [[file.rows, file.content] for file in self.files]])


def check_place(folder: Path) -> None:
    """Raise FeedError where Petastorm would take a part of the folder's name for a part of a URL."""
    if marks := [mark for mark in "#?;" if mark in str(folder.absolute())]:
        raise FeedError(f"{folder}: Petastorm splits paths at {marks[0]}; choose a workspace without it in its path")


def write_manifest(folder: Path, manifest: FeedManifest) -> None:
    """Seal a folder: from now on its files are those."""
    write_whole(folder / MANIFEST, json.dumps(asdict(manifest), indent=1))


def read_manifest(folder: Path) -> FeedManifest:
    """The manifest of a sealed feed.

    Raises:
        FeedError: it is not sealed, not readable, names files outside of it, or holds a file that Petastorm would unpickle.
    """
    check_place(folder)
    if planted := [name for name in _PICKLED if (folder / name).exists()]:
        raise FeedError(f"{folder}: holds {planted[0]}, which Petastorm would unpickle; remove it, no feed of ours has one")
    try:
        record = json.loads((folder / MANIFEST).read_text())
        files = tuple(
            FeedFile(str(f["name"]), int(f["rows"]), str(f["sha256"]), str(f["content"]), int(f["highest_id"]))
            for f in record["files"]
        )
        whole = FeedManifest(str(record["table"]), str(record["fingerprint"]), int(record["version"]), int(record["length"]), files)
    except FileNotFoundError:
        raise FeedError(f"{folder}: no sealed feed ({MANIFEST} is missing); make it again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeedError(f"{folder / MANIFEST}: not readable ({type(error).__name__}); make the feed again") from None
    if not files or any(not _FILE.match(file.name) or file.rows < 1 for file in files):
        raise FeedError(f"{folder / MANIFEST}: names no files, or files that are not a feed's; make the feed again")
    return whole


def check_file(folder: Path, file: FeedFile) -> Path:
    """A file of a feed, once its content was compared with the manifest.

    Raises:
        FeedError: it is missing or another one.
    """
    path = folder / file.name
    if not path.is_file() or file_sha256(path) != file.sha256:
        raise FeedError(f"{path}: missing, cut short or changed since the feed was sealed; remove {folder} to make it again")
    return path
