"""What a person sees of a run: lines in a log, one line that changes on a terminal."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from icon_dist.loggers import logger as module
from icon_dist.loggers.events import Done, Evaluating, Note, Speed, Tick
from icon_dist.loggers.logger import Logger
from tests.support.progress import Clock, Log, Terminal, evaluation, recorded, shown, start, steps, train


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_gets_whole_lines_some_seconds_apart(tmp_path: Path, clock: Clock) -> None:
    out = Log()
    logger = Logger(str(tmp_path), out=out)
    logger(start())
    for step in range(1, 31):
        clock.now += 1
        logger(train(step))
    logger(train(100))  # the last one is shown whenever it comes
    logger(evaluation(30))
    logger(Done("complete"))
    logger.close()
    text = out.text()
    assert "\r" not in text
    assert text.endswith("\n")
    said = text.splitlines()
    assert [line.split()[1] for line in said[:3]] == ["1/100", "11/100", "21/100"]
    assert said[0] == "step 1/100  epoch 0.10  heatmap 1.0000  skcc 3.000  prcc 4.000"
    # one step a second; the first event is where the clock of the rate starts
    assert said[1] == "step 11/100  epoch 1.10  heatmap 0.0909  skcc 3.000  prcc 4.000  1:29 left"
    assert said[3].startswith("step 100/100  epoch 10.00  heatmap 0.0100")
    assert said[4:] == ["epoch 1  PCK@0.2 61.5  split=val boxes=gt", "complete"]


def test_between_two_steps_that_are_logged(tmp_path: Path, clock: Clock) -> None:
    """Ticks and evaluations in progress are seen, and not kept."""
    out = Log()
    logger = Logger(str(tmp_path), out=out)
    moment = "2026-01-02T03:04:05+00:00"
    figures = Speed(1210, moment, img_s=85.2, step_ms=187.6, data_wait=2.6)
    first, later = (Tick(step, step / 100, figures) for step in (1, 31))
    for event in (start(), first, replace(train(20), speed=figures), later, Evaluating(40, 63), evaluation(31)):
        logger(event)
        clock.now += 10
    logger.close()
    local = datetime.fromisoformat(moment).astimezone()
    speed = f"85 img/s  188 ms  3 % data wait  1210 MB  {local:%H:%M:%S}"
    assert out.text().splitlines() == [
        f"step 1/100  epoch 0.01  {speed}",
        f"step 20/100  epoch 2.00  heatmap 0.0500  skcc 3.000  prcc 4.000  {speed}  0:42 left",
        f"step 31/100  epoch 0.31  heatmap 0.0500  skcc 3.000  prcc 4.000  {speed}  0:46 left",
        "evaluated 40/63 boxes",
        "epoch 1  PCK@0.2 61.5  split=val boxes=gt",
    ]
    assert [event["step"] for event in recorded(str(tmp_path))] == [20, 31]
    assert steps(tmp_path / "tensorboard", "train/img_s") == [20]


def test_contrast_that_is_off_is_not_shown(tmp_path: Path, clock: Clock) -> None:
    out = Log()
    logger = Logger(str(tmp_path), out=out)
    logger(start())
    for step in (1, 2):
        clock.now += 1
        logger(train(step, scale=0.0))
    logger.close()
    assert "skcc" not in out.text()
    assert "heatmap 1.0" in out.text()


def test_a_terminal_has_one_line_that_changes(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen = Terminal()
    logger = Logger(str(tmp_path), out=screen)
    logger(start())
    for step in (1, 2, 3):
        clock.now += 1
        logger(train(step))
    assert screen.text().count("\n") == 0
    assert [part.split()[1] for part in screen.text().split("\r")[1:]] == ["1/100", "2/100", "3/100"]
    assert all(len(part) < 60 for part in screen.text().split("\r")), "a full line would wrap"
    logger(Note("a note"))
    logger(train(4))
    logger(evaluation(4))
    logger(Done("complete"))
    logger.close()
    lines = shown(screen)
    assert [line.split()[1] for line in lines[::2][:2]] == ["3/100", "4/100"]
    assert lines[1] == "a note"
    assert lines[3:] == ["epoch 1  PCK@0.2 61.5  split=val boxes=gt", "complete", ""]


def test_an_error_after_half_a_line_begins_a_new_one(tmp_path: Path, clock: Clock) -> None:
    screen = Terminal()
    logger = Logger(str(tmp_path), out=screen)
    logger(start())
    for step in (1, 2):
        clock.now += 1
        logger(train(step))
    assert not screen.text().endswith("\n")
    logger.close()
    assert screen.text().endswith("\n")
    logger.close()
    assert screen.text().count("\n") == 1


def test_what_takes_long_is_said_again_until_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_S", 0.02)
    out = io.StringIO()
    logger = Logger(str(tmp_path), out=out)
    with logger.waiting("starting Ray") as over:
        while out.getvalue().count("starting Ray, 0 s so far\n") < 2:
            time.sleep(0.01)
        over.set()
        time.sleep(0.1)
        told = out.getvalue()
        time.sleep(0.1)
        assert out.getvalue() == told
    with logger.waiting("loading"):
        pass
    assert out.getvalue() == told
