"""A run on one GPU, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import one_process

# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.gpu
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_run_on_a_gpu(zero: int, people: Path, tmp_path: Path) -> None:
    """bf16, pinned memory, the bank on the device; in a process of its own, since NCCL's group lasts as long."""
    more = ("run.gpus_per_worker=1", f"run.zero={zero}", "data.loaders=1", "optim.ema=0")
    argv = [sys.executable, "-m", "icon_dist.train", *one_process(people, tmp_path, *more)]
    for end, last in (("stopped early: step 4 of 8", ["run.stop_after_epoch=1"]), ("complete: step 8 of 8", [])):
        done = subprocess.run([*argv, *last], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert end in done.stderr
