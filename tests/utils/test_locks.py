"""Locks, also where the file system has no flock: one holder, and what a killed one left is free again."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from filelock import Timeout

from entropylong.errors import WorkspaceError
from entropylong.storage.workspace import Workspace
from entropylong.utils import locks
from entropylong.utils.locks import locked


@pytest.fixture(params=["flock", errno.ENOTSUP, errno.ENOSYS])
def lock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock's path, on a file system with flock and on two that answer that they have none."""
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "SILENCE", 0.5)
    monkeypatch.setattr(locks, "SETTLE", 0.02)
    if request.param != "flock":

        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(request.param, "no flock here")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return tmp_path / ".lock"


def test_one_holder_at_a_time(lock: Path) -> None:
    with locked(lock, wait=False):
        # Also after the time in which a silent holder would count as dead.
        time.sleep(0.7)
        started = time.monotonic()
        with pytest.raises(Timeout), locked(lock, wait=False):
            pass
        assert time.monotonic() - started < 2
    with locked(lock, wait=False):
        pass
    assert not lock.with_name(".lock.lease").exists()


def test_the_next_waits_for_the_holder(lock: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(lock):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locked(lock):
        waiting.start()
        time.sleep(0.8)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_what_a_killed_holder_left_is_free_again(lock: Path) -> None:
    held = textwrap.dedent(
        f"""
        import os
        from pathlib import Path
        from entropylong.utils import locks
        locks.BEAT, locks.SETTLE = 0.05, 0.0
        with locks._lease(Path({str(lock)!r} + ".lease"), False):
            os._exit(9)
        """
    )
    assert subprocess.run([sys.executable, "-c", held], check=False).returncode == 9
    assert lock.with_name(".lock.lease").is_file()
    with locked(lock, wait=False):
        pass


def test_of_two_claims_at_once_the_later_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = tmp_path / "lease"

    def other_writes(seconds: float) -> None:
        lease.write_text("another run 0")

    monkeypatch.setattr(locks.time, "sleep", other_writes)
    with pytest.raises(Timeout), locks._lease(lease, wait=False):
        pass
    assert lease.read_text() == "another run 0"


def test_a_claim_at_the_same_moment_takes_no_file_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, replace, others = tmp_path / "lease", Path.replace, ["host other"]

    def meanwhile(aside: Path, target: Path) -> Path:
        if others:
            locks._write(lease, others.pop(), 0)
        return replace(aside, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    locks._write(lease, "host own", 0)
    assert lease.read_text() == "host own 0" and list(tmp_path.iterdir()) == [lease]


def test_a_volume_is_never_asked_for_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []
    monkeypatch.setattr(locks, "_lease", lambda path, wait: paths.append(path) or threading.Lock())
    with locked("/Volumes/main/web/files/.lock"):
        pass
    assert paths == [Path("/Volumes/main/web/files/.lock.lease")]


def test_a_second_run_is_told(lock: Path) -> None:
    first, second = (Workspace(str(lock.parent / "w")) for _ in range(2))
    message = r"another run is at work here \(process \d+ on .+\); wait for it"
    with first.locked(), pytest.raises(WorkspaceError, match=message), second.locked():
        pass


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = "cannot be written: Input/output error; choose another workspace=DIR"
    with pytest.raises(WorkspaceError, match=message), Workspace(str(tmp_path)).locked():
        pass
