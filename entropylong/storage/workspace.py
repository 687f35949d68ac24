"""The workspace directory: its format version, and the lock that keeps a second run out."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import Timeout

import entropylong
from entropylong.errors import WorkspaceError
from entropylong.utils.locks import locked

FORMAT = 3
# Its folders and what runs trust; tables too, where they are kept in it.
# In a checkpoint's folder: how far output and input were when its last pass ended.
REACHED = "reached.json"
_OWN = (
    "counts.json", "counts.json.part", "checkpoints", "units", "ledger", "exclude", "index", "tables", "feeds", "training",
    "figures",
)  # fmt: skip


class Workspace:
    """Paths under the workspace directory.

    Raises:
        WorkspaceError: another version of this package wrote it, or it cannot be made.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        stamp = self.path / "workspace.json"
        try:
            version = json.loads(stamp.read_text())["format"] if stamp.is_file() else None
        except (ValueError, KeyError, OSError):
            raise WorkspaceError(f"{stamp}: not readable; restore it, or choose another workspace=DIR") from None
        if version is not None and version != FORMAT:
            is_old = isinstance(version, int) and version < FORMAT
            raise WorkspaceError(
                f"{self.path}: written by {'an earlier' if is_old else 'a newer'} version, whose tables have other columns "
                f"(format {version}, this is {FORMAT}); {'' if is_old else 'upgrade entropylong or '}choose another workspace=DIR"
            )

    def checkpoint(self, table: str, fingerprint: str, choice: str) -> Path:
        """Where a stream remembers what it has read: a cache, the output table is the truth."""
        return self.checkpoints(table, fingerprint) / choice

    def checkpoints(self, table: str, fingerprint: str) -> Path:
        """All that streams into a table remember under a fingerprint."""
        return self.path / "checkpoints" / table / fingerprint

    def forget_checkpoints(self, table: str, fingerprint: str) -> None:
        """Remove them, first of all what says how far they are: one that is removed by half is not gone on with."""
        folder = self.checkpoints(table, fingerprint)
        for reached in folder.glob(f"*/{REACHED}"):
            reached.unlink()
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def units(self) -> Path:
        """What a stage reads, cut by its units, while a run is at it."""
        return self.path / "units"

    def ledger(self, fingerprint: str) -> Path:
        """Which input units were read into `documents`: a cache, the table is the truth."""
        return self.path / "ledger" / f"{fingerprint}.parquet"

    @property
    def known_counts(self) -> Path:
        """What runs counted of the tables: a cache, the tables are the truth."""
        return self.path / "counts.json"

    def index(self, fingerprint: str) -> Path:
        """Files of an index."""
        return self.path / "index" / fingerprint

    def feed(self, name: str) -> Path:
        """Where a sealed feed lies."""
        return self.path / "feeds" / name

    def training(self, identity: str) -> Path:
        """A training run's checkpoints, steps and result."""
        return self.path / "training" / identity

    def metrics(self, recipe: str, fingerprint: str) -> Path:
        """Where the figures of the run that packed sequences lie."""
        return self.path / "figures" / f"{recipe}-{fingerprint[:8]}"

    def feeds(self, fingerprint: str) -> list[Path]:
        """Sealed feeds of a table's rows under a fingerprint, one a Delta version; of "*", all."""
        return sorted(self.path.glob(f"feeds/{fingerprint}-v*"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for one run. The lock falls with its process, however that ends.

        Raises:
            WorkspaceError: another run holds it, the directory cannot be written, or a link in it leads out of it.
        """
        stamp = self.path / "workspace.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = ExitStack()
            held.enter_context(locked(self.path / ".lock", wait=False))
        except Timeout:
            raise WorkspaceError(
                f"{self.path}: another run is at work here ({self._holder()}); wait for it, or choose another workspace=DIR"
            ) from None
        except OSError as error:
            raise WorkspaceError(f"{self.path}: cannot be written: {error.strerror}; choose another workspace=DIR") from None
        with held:
            self._refuse_links()
            shutil.rmtree(self.units, ignore_errors=True)  # of a run that was killed
            (self.path / ".holder").write_text(f"process {os.getpid()} on {socket.gethostname()}")
            if not stamp.is_file():
                stamp.write_text(json.dumps({"format": FORMAT, "created_by": entropylong.__version__}))
            yield

    def _refuse_links(self) -> None:
        """What a run writes, drops or trusts in here must be in here."""
        patterns = [pattern for name in _OWN for pattern in (name, f"{name}/*", f"{name}/*/*")]
        for path in (path for pattern in patterns for path in self.path.glob(pattern)):
            if path.is_symlink() and not path.resolve().is_relative_to(self.path.resolve()):
                raise WorkspaceError(
                    f"{path}: a link out of the workspace, to {path.resolve()}; remove it (tables elsewhere: tables=DIR)"
                )

    def _holder(self) -> str:
        try:
            return (self.path / ".holder").read_text()
        except OSError:
            return "unknown process"
