"""A lock file on whatever file system a workspace lies on. Pure Python."""

from __future__ import annotations

import errno
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# Databricks volumes: an object store shown as files. Whatever flock answers there, it can tell of one machine alone.
_VOLUMES = "/Volumes/"
# What other file systems without flock answer.
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
# A lease is renewed every BEAT seconds, is free after SILENCE without, and a claim to it stands after SETTLE: of two that were
# written at once both writers then read the later one.
BEAT, SILENCE, SETTLE = 10.0, 60.0, 2.0


@contextmanager
def locked(path: Path | str, wait: bool = True) -> Iterator[None]:
    """Hold a lock file: by flock, which falls with its process, or where the file system has none by a lease beside it.

    Args:
        path: the lock file, in a folder that is there.
        wait: for another holder; else that is an error.

    Raises:
        Timeout: another process holds it.
        OSError: the file cannot be made.
    """
    with _flock(path, wait) or _lease(Path(f"{path}.lease"), wait):
        yield


def _flock(path: Path | str, wait: bool) -> AbstractContextManager[object] | None:
    if str(path).startswith(_VOLUMES):
        return None
    try:
        return FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False).acquire()
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return None


@contextmanager
def _lease(path: Path, wait: bool) -> Iterator[None]:
    """A file that its holder keeps writing, so that what a killed process left is known by its silence.

    It needs no more of a file system than to replace and to read small files, and compares no clocks. Filelock's own leases take
    over what a dead process left by exchanging two names in one step, which these file systems do not do.
    """
    own = f"{socket.gethostname()} {uuid.uuid4().hex}"
    while True:
        _await_silence(path, wait)
        _write(path, own, 0)
        time.sleep(SETTLE)
        if _holder(path) == own:
            break
        if not wait:
            raise Timeout(str(path))
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, own, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _holder(path) == own:
            path.unlink(missing_ok=True)


def _await_silence(path: Path, wait: bool) -> None:
    """Return once nobody holds the lease: there is none, or it was not renewed for SILENCE seconds."""
    content, since = _read(path), time.monotonic()
    while content is not None and time.monotonic() - since < SILENCE:
        time.sleep(min(1.0, BEAT))
        if (now := _read(path)) != content:
            if now is not None and not wait:
                raise Timeout(str(path))
            content, since = now, time.monotonic()


def _renew(path: Path, own: str, done: threading.Event) -> None:
    beat = 0
    while not done.wait(BEAT):
        beat += 1
        # A storage that does not answer for a moment is no reason to stop; a lease that another took is none to take back.
        with suppress(OSError):
            if _holder(path) == own:
                _write(path, own, beat)


def _write(path: Path, own: str, beat: int) -> None:
    """Aside under a name of its own, then renamed: of two that claim at once neither takes the other's file away."""
    aside = path.with_name(f"{path.name}.{own.rpartition(' ')[2]}")
    aside.write_text(f"{own} {beat}")
    aside.replace(path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _holder(path: Path) -> str:
    return (_read(path) or "").rpartition(" ")[0]
