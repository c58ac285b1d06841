"""The line that says how long a command still takes, on a clock made here."""

from __future__ import annotations

import pytest

from icon_dist.loggers import progress_line
from icon_dist.loggers.progress_line import ProgressLine
from tests.support.progress import Clock, Log, Terminal, shown


def said(out: Log, monkeypatch: pytest.MonkeyPatch, *, found: int = 0, last: int = 24, total: int = 100) -> str:
    """What is written of photos, two a second, from those on that were done before."""
    clock = Clock()
    monkeypatch.setattr(progress_line, "time", clock)
    line = ProgressLine("predicting", "photos", out=out)
    for done in range(found, last + 1):
        line(done, total)
        clock.now += 0.5
    assert line.found == found
    return out.text()


def test_a_log_has_a_line_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["predicting 4/100 photos, 2/s, 0:48 left\n", "predicting 24/100 photos, 2/s, 0:38 left\n"]
    assert said(Log(), monkeypatch) == "".join(lines)


def test_what_was_done_before_is_no_part_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(Log(), monkeypatch, found=50, last=60) == "predicting 54/100 photos, 2/s, 0:23 left\n"


def test_the_last_line_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(Log(), monkeypatch, last=100).endswith("\npredicting 100/100 photos, 2/s\n")
    screen = Terminal()
    said(screen, monkeypatch, last=100)
    assert screen.text().count("\n") == 1
    assert shown(screen) == ["predicting 100/100 photos, 2/s", ""]


@pytest.mark.parametrize("kind", [Log, Terminal])
def test_what_is_done_in_two_seconds_needs_no_line(kind: type[Log], monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(kind(), monkeypatch, last=3, total=3) == ""
    assert said(kind(), monkeypatch, found=9, last=9, total=9) == ""


def test_on_a_terminal_a_line_replaces_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(Terminal(), monkeypatch).split("\r")
    assert [line.split()[1] for line in lines[:-1]] == [f"{done}/100" for done in range(4, 25)]
    assert {len(line) for line in lines[:-1]} == {60}
    assert lines[-1] == ""
