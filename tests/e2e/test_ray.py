"""The user's commands on real Ray: a lost worker, a submitted job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.engine.test_resume import assert_equal, final
from tests.gang import TINY, run_gang, tiny
from tests.ray_nodes import Nodes, cluster, training_workers, wait_for

pytestmark = pytest.mark.ray
LONG = {"optim__epochs": 12, "optim__milestones": (10,), "eval__every": 12}


def arguments(people: Path, run_dir: Path, **more: object) -> list[str]:
    values = TINY | {"data.train": f"{people}/train", "data.val": f"{people}/val", "run.dir": str(run_dir)}
    values |= {key.replace("__", "."): value for key, value in more.items()}
    text = {key: str(list(value) if isinstance(value, tuple) else value) for key, value in values.items()}
    return ["-m", "icon_dist.train", "--cfg", "demo", *(f"{key}={value}" for key, value in text.items())]


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("a worker", "starting again from the newest checkpoint"),
        pytest.param("ray::TrainController", "starting again from the newest checkpoint", marks=pytest.mark.slow),
        pytest.param("ray::Mailbox", "complete: ", marks=pytest.mark.slow),
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
from icon_dist.launch.progress import Progress
from icon_dist.launch.ray import launch
from icon_dist.errors import run_cli
from tests.gang import tiny
run_cli(lambda _: launch(tiny({str(people)!r}, {str(run_dir)!r}), {loop!r}, Progress({str(run_dir)!r})))
"""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_same_failure_twice_is_not_bad_luck(people: Path, tmp_path: Path) -> None:
    done = launch("tests.gang:broken", people, tmp_path)
    assert done.returncode == 7, done.stderr
    assert done.stderr.count("about to fail") == 2
    assert done.stderr.endswith("step 0: failed twice in the same way: shapes do not fit\n")


@pytest.mark.timeout(280)
def test_whatever_fails_once_a_worker_is_lost_is_no_bug(people: Path, tmp_path: Path) -> None:
    done = launch("tests.gang:bereft", people, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "workers lost (" in done.stderr
    assert "both are back" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def head() -> Iterator[Nodes]:
    with cluster() as started:
        yield started


@pytest.mark.timeout(280)
@pytest.mark.usefixtures("head")
def test_the_users_own_line(people: Path, tmp_path: Path) -> None:
    """``ray job submit -- python -m icon_dist.train --cfg ...``: success, resume, and a failure that says why."""

    def submit(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ray", "job", "submit", "--", *line], capture_output=True, text=True, check=False)

    done = submit("python", *arguments(people, tmp_path, run__name="job", optim__epochs=1, optim__milestones=()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete: step 4 of 4" in done.stdout
    final(tiny(people, tmp_path, run__name="job"))

    failed = submit("python", "-m", "icon_dist.train", "--cfg", "coco", f"data.train={tmp_path}/none")
    assert failed.returncode == 1
    lines = {line for line in failed.stdout.splitlines() if "icon_dist: error:" in line}  # ray prints the end twice
    assert len(lines) == 1
    assert "icon-dist shards build" in lines.pop()
    assert "exit code 3" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout
