"""kill -9 of a Ray Train worker at a random moment, as its machine would lose it: the driver starts a new group."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from icon_dist import config as configuration
from icon_dist.checkpoints import manifest
from icon_dist.config import Config
from icon_dist.training.loop import run_directory
from tests.support.paths import ROOT
from tests.support.ray_nodes import training_workers

EPOCHS = 12
LATEST = {"workers": 20.0, "checkpoint": 6.0}  # s after the first of these: while they import and connect, or train
PATIENCE = 240.0


def kill_a_worker(config: Config, rng: random.Random, *, folder: Path) -> str:
    """The user's command with one kill; returns when it has come to its end, with what happened."""
    file, log = folder / f"{config.run.name}.yaml", folder / f"{config.run.name}.log"
    file.write_text(configuration.to_yaml(config))
    with log.open("w") as out:
        command = [sys.executable, "-m", "icon_dist.train", "--cfg", str(file)]
        driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE
        since = rng.choice(["workers", "checkpoint", "checkpoint"])
        while len(_workers(driver.pid)) < config.run.workers or (since == "checkpoint" and not _steps(config)):
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        moment = rng.uniform(0, LATEST[since])
        time.sleep(moment)
        victim = rng.randrange(config.run.workers)
        before, killed = _steps(config), time.monotonic()
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(_workers(driver.pid)[victim], signal.SIGKILL)
        back = 0.0
        while driver.poll() is None:
            if not back and _steps(config)[-1:] > before[-1:]:
                back = time.monotonic() - killed
            assert time.monotonic() < deadline + PATIENCE, f"hangs: {log.read_text()}"
            time.sleep(0.1)
        text = log.read_text()
        assert driver.returncode == 0, text
        assert "Traceback" not in text, text
    finally:
        if driver.poll() is None:
            driver.terminate()
            driver.wait(60)
    where = f"worker {victim} killed {moment:.1f} s after the first {since}"
    if not back:
        return f"{where}, too late"
    who = "the driver" if "starting again from the newest checkpoint" in text else "Ray"
    return f"{where}, after step {before[-1] if before else 0}: {who} started again, next checkpoint {back:.1f} s later"


def _workers(driver: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return sorted(training_workers(psutil.Process(driver).children(recursive=True)))
    return []


def _steps(config: Config) -> list[int]:
    """With a checkpoint."""
    return [entry.step for entry in manifest.entries(run_directory(config)) if entry.committed]
