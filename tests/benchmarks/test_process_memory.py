"""What each process of a small run through Ray holds, for ``launch/process_memory.py``. Printed, not asserted.

``pytest -m slow -s tests/benchmarks/test_process_memory.py``
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.training import arguments

MB = 10**6


def kind(process: psutil.Process, driver: int) -> str:
    """The loaders of a worker are its forks, under its name."""
    if process.pid == driver:
        return "driver"
    if "RayTrainWorker" not in process.name() + " ".join(process.cmdline()):
        return "Ray"
    return (
        "loader" if process.ppid() != driver and "RayTrainWorker" in " ".join(process.parent().cmdline()) else "worker"
    )


@pytest.mark.slow
def test_processes_of_a_run(people: Path, tmp_path: Path) -> None:
    command = [sys.executable, *arguments(people, tmp_path, data__loaders=2, run__workers=2, optim__epochs=8)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak: dict[tuple[str, int], int] = defaultdict(int)
    while run.poll() is None:
        with suppress(psutil.Error):
            for process in (psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)):
                with suppress(psutil.Error, AttributeError):
                    key = kind(process, run.pid), process.pid
                    peak[key] = max(peak[key], process.memory_full_info().pss)
        time.sleep(0.5)
    assert run.returncode == 0
    print("\nthe most that processes held, MB; shared pages are divided by those who share them:")
    for name in ("driver", "worker", "loader", "Ray"):
        each = sorted(size // MB for (of, _), size in peak.items() if of == name)
        print(f"  {name:8} {sum(each) if name == 'Ray' else each}")
