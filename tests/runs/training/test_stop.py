"""SIGTERM and Ctrl-C to a run in one process: a checkpoint first, then the exit code; a second signal does not wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icon_dist.checkpoints import manifest
from icon_dist.checkpoints.background_saver import Saver
from icon_dist.config import Config
from icon_dist.loggers.events import Note, Report
from tests.support.paths import ROOT
from tests.support.run_results import assert_equal, final, losses
from tests.support.training import run_gang, tiny

LONG = {"optim__epochs": 2, "optim__milestones": (1,), "run__workers": 1, "run__launcher": "local", "run__zero": 0,
        "data__loaders": 1, "eval__every": 100}  # fmt: skip
LAUNCH = """
import sys
from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger
from icon_dist.command_exit import run_cli
from tests.support.training import tiny
people, folder, loop = sys.argv[1:4]
config = tiny(people, folder, **{long}, run__name="stopped")
run_cli(lambda _: launch(config, loop, Logger(folder + "/stopped")), [])
"""


def slow_to_start(config: Config, *, report: Report, device: str, stop: Callable[[], bool]) -> None:
    """As while a model compiles."""
    del config, device, stop
    report(Note("compiling"))
    time.sleep(600)


def slow_to_save(config: Config, *, report: Report, device: str, stop: Callable[[], bool]) -> None:
    from icon_dist.training.loop import train

    commit = Saver.commit

    def slow(self: Saver, *args: object) -> None:
        if stop():
            report(Note("saving"))
            time.sleep(600)
        commit(self, *args)  # type: ignore[arg-type]

    Saver.commit = slow  # type: ignore[method-assign, assignment]
    train(config, report=report, device=device, stop=stop)


def ready_to_be_asked(config: Config, *, report: Report, device: str, stop: Callable[[], bool]) -> None:
    """Takes no more steps once it has a checkpoint, until it is asked to stop: a slow machine may take its time."""
    from icon_dist.training.loop import run_directory, train

    def asked() -> bool:
        while not stop() and manifest.newest_step(run_directory(config)) >= 0:
            time.sleep(0.01)
        return stop()

    train(config, report=report, device=device, stop=asked)


class Run:
    def __init__(self, people: Path, folder: Path, *, loop: str) -> None:
        self.log = folder / "log"
        code = LAUNCH.replace("{long}", repr(LONG))
        command = [sys.executable, "-W", "ignore", "-c", code, str(people), str(folder), loop]
        with self.log.open("a") as out:
            # a session of its own, as a terminal has
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, start_new_session=True)
        self._folder = folder / "stopped"

    def wait_for(self, ready: Callable[[], object]) -> None:
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def saved(self) -> list[int]:
        return [entry.step for entry in manifest.entries(str(self._folder)) if entry.committed]

    def says(self, text: str) -> bool:
        return text in self.log.read_text()


@pytest.fixture
def start(people: Path, tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    runs: list[Run] = []

    def begin(loop: str) -> Run:
        runs.append(Run(people, tmp_path, loop=loop))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [pytest.param(signal.SIGHUP, 75, "SIGHUP", marks=pytest.mark.slow), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_the_first_signal_saves_and_the_run_resumes(
    start: Callable[[str], Run], people: Path, tmp_path: Path, number: signal.Signals, code: int, name: str
) -> None:
    run = start("tests.runs.training.test_stop:ready_to_be_asked")
    run.wait_for(run.saved)
    os.killpg(run.process.pid, number)  # loader processes as well, as a terminal and a batch system do
    assert run.process.wait() == code, run.log.read_text()
    *_, last = run.log.read_text().splitlines()
    found = re.fullmatch(
        rf"icon_dist: stopped by {name} at step (\d+), checkpoint committed; the same command resumes", last
    )
    assert found, run.log.read_text()
    assert "Traceback" not in run.log.read_text()
    step = int(found[1])
    assert 4 <= step < 8
    assert max(run.saved()) == step
    stopped = tiny(people, tmp_path, **LONG, run__name="stopped")
    assert len(losses(stopped)) == step, "metrics are flushed"

    straight = tiny(people, tmp_path, **LONG, run__name="straight")
    run_gang(stopped, straight, scratch=tmp_path, world=1)
    assert_equal(final(straight), final(stopped))
    assert losses(straight) == losses(stopped)


def test_a_second_signal_leaves_at_once(start: Callable[[str], Run]) -> None:
    run = start("tests.runs.training.test_stop:slow_to_save")
    run.wait_for(run.saved)
    run.process.send_signal(signal.SIGTERM)
    run.wait_for(lambda: run.says("saving"))
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(300) == 143  # half of what saving takes


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_before_the_first_step_there_is_nothing_to_wait_for(
    start: Callable[[str], Run], number: signal.Signals
) -> None:
    run = start("tests.runs.training.test_stop:slow_to_start")
    run.wait_for(lambda: run.says("compiling"))
    run.process.send_signal(number)
    assert run.process.wait(300) == 75
    *_, last = run.log.read_text().splitlines()
    assert last == f"icon_dist: stopped by {number.name} before its first step; the same command resumes"
