"""How far a step is, as people are told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from entropylong.utils import progress
from entropylong.utils.progress import Progressing, counted_progress, phase, step_progress

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_lines_say_rows_rate_and_time_left_until_all_are_done(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.01)
    output = ""

    def must_tell(part: str) -> None:
        nonlocal output
        end = time.monotonic() + 20
        while part not in output and time.monotonic() < end:
            time.sleep(0.02)
            output += capsys.readouterr().err
        assert part in output

    with step_progress(spark, "score", 40, "roots") as state:
        assert state.pace()[0] == 0 and state.pace()[2] is None
        must_tell("  score: 0 s so far\n")
        state.batch(10)
        state.commit()
        must_tell("  score: 10 / 40 roots (")
        done, rate, left = state.pace()
        assert (done, state.left) == (10, 30) and left == pytest.approx(30 / rate)
        state.batch(30)
        state.commit()
        assert state.pace()[2] == 0
    assert " s left)" in output
    assert "40 / 40" not in output + capsys.readouterr().err, "of the end the runner tells"


def test_of_what_has_no_known_end_one_line_tells(capsys: pytest.CaptureFixture[str]) -> None:
    with phase("report: [counting]"):
        assert capsys.readouterr().err == "report: [counting] ...\n"
    assert capsys.readouterr().err == ""


def test_what_reports_its_own_units_is_shown_the_same_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was there already is said once and counts for no rate; the lines end with the last unit."""
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.01)
    output = ""
    with counted_progress("ruler", "prompts") as first, counted_progress("ruler") as second:
        time.sleep(0.05)
        assert capsys.readouterr().err == "", "nothing is told before the first unit"
        first(0, 2)
        first(2, 2)
        second(30, 40)
        second(31, 40)
        end = time.monotonic() + 20
        while "31 / 40" not in output and time.monotonic() < end:
            time.sleep(0.02)
            output += capsys.readouterr().err
        second(40, 40)
        output += capsys.readouterr().err
        time.sleep(0.05)
        assert capsys.readouterr().err == "", "all are done"
    assert output.startswith("ruler: 30 of 40 answers were there already\n") and "  ruler: 31 / 40 answers (" in output
    assert "40 / 40" not in output
    assert Progressing("x", 40, "", 30).line() == "x: 0 s so far"


def test_on_a_terminal_a_bar_is_there_and_goes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with counted_progress("attention", "passes") as report:
        report(0, 4)
        time.sleep(0.7)
        report(3, 4)
        time.sleep(0.7)
    output = capsys.readouterr().err
    assert "attention" in output and "3/4" in output and "passes" in output and "left" in output
