"""What a trial of a sweep costs beside its training: a sweep of tiny trials, one after another. Printed, not asserted.

``pytest -m slow -s tests/benchmarks/test_sweep_cost.py``
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.training import arguments

TRIALS, FIRST = 24, 4  # those before have imports and actors to wait for


def used(driver: psutil.Process) -> tuple[float, float, float]:
    """The time now, and the CPU time in s of the driver and of the actors that trials run in."""
    actors = 0.0
    for process in driver.children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::ImplicitFunc"):
                actors += sum(process.cpu_times()[:2])
    return time.monotonic(), sum(driver.cpu_times()[:2]), actors


@pytest.mark.slow
def test_a_trial(people: Path, tmp_path: Path) -> None:
    given = arguments(people, tmp_path, optim__epochs=1, optim__milestones=(), eval__limit=4)
    study = tmp_path / "study"
    line = [sys.executable, "-m", "icon_dist", "sweep", "lambdas", "--cfg", "demo", "--study", str(study)]
    line += ["--trials", str(TRIALS), "--max-concurrent", "1", *(item for item in given if "=" in item)]
    run = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    driver, at = psutil.Process(run.pid), {}
    while run.poll() is None and TRIALS - 1 not in at:
        with suppress(FileNotFoundError, psutil.Error):
            done = sum(",complete," in row for row in (study / "trials.csv").read_text().splitlines())
            at.setdefault(done, used(driver))
        time.sleep(0.02)
    assert run.wait() == 0
    wall, own, actor = (
        (end - start) / (TRIALS - 1 - FIRST) for start, end in zip(at[FIRST], at[TRIALS - 1], strict=True)
    )
    print(
        f"\na trial: {wall:.2f} s of wall time; CPU {own:.3f} s of the driver, {actor:.3f} s of the actor, training too"
    )
