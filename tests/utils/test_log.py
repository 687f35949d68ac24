"""What people see of the package's messages: all, results alone, or details."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from entropylong.cli import app
from entropylong.utils.log import NORMAL, PACKAGE, QUIET, VERBOSE, is_shown, muted, show
from entropylong.utils.progress import counted_progress, phase

own = logging.getLogger("entropylong.pipeline.runner")


@pytest.fixture(autouse=True)
def package_as_it_was() -> Iterator[None]:
    package = logging.getLogger(PACKAGE)
    before = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.propagate = before[0], before[2]
    package.setLevel(before[1])


def log_all() -> None:
    own.debug("a detail")
    own.info("score: 3 documents")
    own.warning("a warning")


def test_levels_and_streams(capsys: pytest.CaptureFixture[str]) -> None:
    show(NORMAL)
    log_all()
    assert capsys.readouterr() == ("score: 3 documents\n", "a warning\n") and is_shown()
    show(QUIET)
    log_all()
    assert capsys.readouterr() == ("", "a warning\n") and not is_shown()
    show(VERBOSE)
    log_all()
    out, err = capsys.readouterr()
    assert [line.split(" ", 2)[2] for line in out.splitlines()] == [
        "entropylong.pipeline.runner: a detail",
        "entropylong.pipeline.runner: score: 3 documents",
    ]
    assert err.endswith("entropylong.pipeline.runner: a warning\n")


def test_no_progress_under_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for level, expected in ((QUIET, ""), (NORMAL, "report ...\n")):
        show(level)
        with phase("report"), counted_progress("ruler") as report:
            report(1, 2)
            report(2, 2)
        err = capsys.readouterr().err
        assert err.startswith(expected) if expected else err == ""


def test_an_area_is_muted_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    show()
    with muted("pipeline"):
        log_all()
    own.info("again")
    assert capsys.readouterr() == ("again\n", "a warning\n")


@pytest.mark.parametrize(("word", "level"), [("--quiet", QUIET), ("--verbose", VERBOSE)])
def test_the_word_may_stand_anywhere(word: str, level: int, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([word, "run", "--describe", "--config", "demo"], ["run", "--describe", "--config", "demo", word]):
        assert app.call(arguments) == 0 and "score" in capsys.readouterr().out
        assert logging.getLogger(PACKAGE).level == level
