"""The line that says how long a command still takes, on a clock made here."""

from __future__ import annotations

import pytest

from icon_dist.launch import progress_bar
from icon_dist.launch.progress_bar import counter
from tests.support.progress import Clock, Log, Terminal, shown


def said(out: Log, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is written of 24 photos, one a second."""
    clock = Clock()
    monkeypatch.setattr(progress_bar, "time", clock)
    monkeypatch.setattr("sys.stderr", out)
    show = progress_bar.progress_bar("predicting", "photos", 100)
    for done in range(1, 25):
        clock.now += 1
        show(done)
    return out.text()


def test_a_log_has_a_line_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"predicting {done}/100 photos, 1:{40 - done} left\n" for done in (3, 13, 23)]
    assert said(Log(), monkeypatch) == "".join(lines)


def test_on_a_terminal_a_line_replaces_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(Terminal(), monkeypatch).split("\r")
    assert [line.split()[1] for line in lines[:-1]] == [f"{done}/100" for done in range(3, 25)]
    assert {len(line) for line in lines[:-1]} == {60}
    assert lines[-1] == ""


@pytest.mark.parametrize("kind", [Log, Terminal])
def test_a_counter_ends_its_line(kind: type[Log]) -> None:
    out = kind()
    show = counter("people", out=out)
    for done in range(101):
        show("drawn", done, 100)
    assert out.text().endswith("drawn 100/100 people\n")
    assert out.text().count("\n") == (1 if out.isatty() else 11)
    assert shown(out)[-2] == "drawn 100/100 people"
