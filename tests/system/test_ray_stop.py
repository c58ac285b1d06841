"""Signals to a run on real Ray, and ``ray job stop``: a checkpoint first, then the exit code; a second one: now."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from icon_dist.checkpoints import manifest
from tests.support.paths import ROOT
from tests.support.ray_nodes import Nodes, cluster, wait_for
from tests.support.run_results import assert_equal, final, losses
from tests.support.training import arguments, run_gang, tiny

pytestmark = pytest.mark.ray
LONG = {"optim__epochs": 40, "optim__milestones": (30,), "eval__every": 40}
SLOW_TO_SAVE = """
import sys
from icon_dist.loggers.logger import Logger
from icon_dist.launch.ray import launch
from icon_dist.command_exit import run_cli
from tests.support.training import tiny
config = tiny(sys.argv[1], sys.argv[2], run__name=sys.argv[3], optim__epochs=40, optim__milestones=[30])
loop = "tests.runs.training.test_stop:slow_to_save"
run_cli(lambda _: launch(config, loop, Logger(f"{sys.argv[2]}/{sys.argv[3]}")), [])
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Nodes]:
    with cluster(nodes=1, cpus=2) as started:
        yield started


class Run:
    """A driver on the cluster, in a session of its own, as a terminal has."""

    def __init__(self, head: Nodes, folder: Path, name: str, *command: str) -> None:
        self.log, self._folder = folder / "log", folder / name
        environment = os.environ | {"RAY_ADDRESS": head.address, "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=environment, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )

    def wait_for(self, ready: Callable[[], object], *, seconds: float = 150) -> float:
        return wait_for(ready, alive=self.process, log=self.log, seconds=seconds)

    def saved(self) -> list[int]:
        return [entry.step for entry in manifest.entries(str(self._folder)) if entry.committed]

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.mark.timeout(600)
def test_a_signal_saves_and_the_same_command_resumes(head: Nodes, people: Path, tmp_path: Path) -> None:
    """SIGTERM to the driver (75), Ctrl-C in its terminal (130), then to the end: the bits of an undisturbed run."""
    line = arguments(people, tmp_path, run__name="stopped", run__checkpoint_every=2, **LONG)
    before = 0
    for number, code, name in ((signal.SIGTERM, 75, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")):
        run = Run(head, tmp_path, "stopped", *line)
        try:
            run.wait_for(lambda run=run, last=before: max(run.saved(), default=0) > last)  # type: ignore[misc]
            send = os.kill if number == signal.SIGTERM else os.killpg  # a terminal tells the whole group
            asked, last = time.monotonic(), max(run.saved())
            send(run.process.pid, number)
            run.wait_for(lambda run=run, last=last: max(run.saved()) > last, seconds=20)  # type: ignore[misc]
            committed = time.monotonic() - asked
            assert run.process.wait(60) == code, run.log.read_text()
            print(f"{name}: committed after {committed:.1f} s, exit {code} after {time.monotonic() - asked:.1f} s")
        finally:
            run.end()
        assert committed < 10
        *_, said = run.log.read_text().splitlines()
        found = re.fullmatch(rf"icon_dist: stopped by {name} at step (\d+), checkpoint committed; .* resumes", said)
        assert found, run.log.read_text()
        assert "Traceback" not in run.log.read_text()
        before = int(found[1])
        assert max(run.saved()) == before < 160
        assert len(losses(tiny(people, tmp_path, **LONG, run__name="stopped"))) == before, "metrics are flushed"
    run = Run(head, tmp_path, "stopped", *line)
    try:
        assert run.process.wait(150) == 0, run.log.read_text()
    finally:
        run.end()
    assert run.says(f"resumed at step {before}")
    straight = tiny(people, tmp_path, **LONG, run__name="straight")
    run_gang(straight, scratch=tmp_path)
    assert_equal(final(straight), final(tiny(people, tmp_path, **LONG, run__name="stopped")))


@pytest.mark.timeout(300)
def test_a_second_signal_leaves_at_once_and_nothing_runs_on(head: Nodes, people: Path, tmp_path: Path) -> None:
    run = Run(head, tmp_path, "twice", "-c", SLOW_TO_SAVE, str(people), str(tmp_path), "twice")
    try:
        run.wait_for(run.saved)
        run.process.send_signal(signal.SIGTERM)
        run.wait_for(lambda: run.says("saving"), seconds=30)
        assert run.process.poll() is None
        asked = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(5) == 143
        print(f"left {time.monotonic() - asked:.1f} s after the second signal")
    finally:
        run.end()
    workers = [psutil.Process(pid) for pid in head.workers(0)]
    assert not psutil.wait_procs(workers, timeout=30)[1]


@pytest.mark.timeout(600)
def test_a_stopped_job_saves_and_the_same_line_resumes(head: Nodes, people: Path, tmp_path: Path) -> None:
    train = arguments(people, tmp_path, run__name="job", **LONG)[2:]

    def submit(*options: str) -> list[str]:
        return ["-m", "icon_dist.submit", "--no-working-dir", *options, "--", *train]

    run = Run(head, tmp_path, "job", *submit("--follow"))
    try:
        run.wait_for(run.saved)
        asked, last = time.monotonic(), max(run.saved())
        done = subprocess.run([sys.executable, *submit("--stop")], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "asked to stop" in done.stdout
        assert run.process.wait(90) == 75, run.log.read_text()
        print(f"exit 75 of the follower {time.monotonic() - asked:.1f} s after --stop")
        assert max(run.saved()) > last
        assert run.says(f"stopped by SIGTERM at step {max(run.saved())}, checkpoint committed")
        assert run.says("STOPPED, exit code 75")

        again = Run(head, tmp_path, "job", *submit("--follow"))
        again.wait_for(lambda: again.says("resumed at step"))
        driver = next(p for p in psutil.Process(head.started[0].pid).children(recursive=True) if _is_driver(p))
        driver.send_signal(signal.SIGTERM)
        assert again.process.wait(90) == 75, run.log.read_text()
        assert again.says("FAILED, exit code 75")
    finally:
        run.end()


def _is_driver(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:3] == ["-m", "icon_dist.train"]
    except (psutil.NoSuchProcess, IndexError):
        return False
