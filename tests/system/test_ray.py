"""The user's commands on real Ray: a lost worker, a submitted job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.ray_nodes import training_workers, wait_for
from tests.support.run_results import assert_equal, final
from tests.support.training import arguments, run_gang, tiny

pytestmark = pytest.mark.ray
LONG = {"optim__epochs": 12, "optim__milestones": (10,), "eval__every": 12}


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("a worker", "starting again from the newest checkpoint"),
        ("ray::TrainController", "starting again from the newest checkpoint"),
        ("ray::Mailbox", "complete: "),
    ],
)
@pytest.mark.timeout(800)
def test_a_killed_process_changes_nothing(people: Path, tmp_path: Path, victim: str, said: str) -> None:
    """kill -9 in the middle of an epoch, as Ray does when memory is short: the bits of an undisturbed run."""
    straight = tiny(people, tmp_path, run__name="straight", **LONG)
    run_gang(straight, scratch=tmp_path)

    command = [sys.executable, *arguments(people, tmp_path, run__name="killed", **LONG)]
    log = tmp_path / "log"
    with log.open("w") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        checkpoints = tmp_path / "killed" / "checkpoints"

        def committed() -> bool:
            return len(list(checkpoints.glob("step-*/MANIFEST.json"))) >= 2

        print(f"second commit after {wait_for(committed, alive=driver, log=log, seconds=240):.1f} s")
        family = psutil.Process(driver.pid).children(recursive=True)
        victims = training_workers(family)
        assert len(victims) == 2
        if victim != "a worker":
            victims = [process.pid for process in family if victim in " ".join(process.cmdline())]
        os.kill(victims[-1], signal.SIGKILL)
        if "again" in said:
            back = wait_for(lambda: "resumed at step" in log.read_text(), alive=driver, log=log, seconds=240)
            print(f"resumed {back:.1f} s after the kill")
        assert driver.wait(240) == 0, log.read_text()
    finally:
        if driver.poll() is None:
            driver.terminate()
            driver.wait(30)
    assert said in log.read_text()
    assert "Traceback" not in log.read_text()
    assert_equal(final(straight), final(tiny(people, tmp_path, run__name="killed", **LONG)))


def launch(loop: str, people: Path, run_dir: Path) -> subprocess.CompletedProcess[str]:
    script = f"""
from icon_dist.loggers.logger import Logger
from icon_dist.launch.ray import launch
from icon_dist.command_exit import run_cli
from tests.support.training import tiny
run_cli(lambda _: launch(tiny({str(people)!r}, {str(run_dir)!r}), {loop!r}, Logger({str(run_dir)!r})))
"""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(280)
def test_the_same_failure_twice_is_not_bad_luck(people: Path, tmp_path: Path) -> None:
    done = launch("tests.support.training:broken", people, tmp_path)
    assert done.returncode == 7, done.stderr
    assert done.stderr.count("about to fail") == 2
    assert done.stderr.endswith("step 0: failed twice in the same way: shapes do not fit\n")


@pytest.mark.timeout(280)
def test_whatever_fails_once_a_worker_is_lost_is_no_bug(people: Path, tmp_path: Path) -> None:
    done = launch("tests.support.training:bereft", people, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "workers lost (" in done.stderr
    assert "both are back" in done.stderr
    assert "Traceback" not in done.stderr
