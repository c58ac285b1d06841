"""What ``cpu.keep_freed_memory`` saves of a training step on a CPU.

CPU time and new pages of the loop's own steps, without and with it, in turns, printed and not asserted::

    pytest -m slow tests/benchmarks/test_freed_memory.py -s
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

CODE = """
import resource, statistics, sys
from pathlib import Path

import torch

from icon_dist.cpu import keep_freed_memory
from tests.gpu.setting import Learning, Setting, config, crops

backbone, size, people = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
keep_freed_memory()
here = Setting("cpu", tiny=True, data=Path(), out=Path(), scratch=Path(), ends=0.0)
learning = Learning(config(here, data__input=size, model__backbone=backbone, loss__lambda_p=0), device="cpu")

def used():
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime, now.ru_minflt

batch, steps = crops(learning.cfg, people, device="cpu", seed=0), []
for _ in range(12):
    before = used()
    learning.step(batch)
    steps.append([b - a for a, b in zip(before, used())])
print(*(statistics.median(one) for one in zip(*steps[3:])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
WITHOUT = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}  # any word of the user's: nothing is changed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("backbone", "size", "people"),
    [("hrnet_small", "64x64", 32), ("efficientnet_lite0", "96x96", 16), ("hrnet_w32", "256x192", 4)],
)
def test_steps(backbone: str, size: str, people: int, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{backbone} at {size}, {people} people a step, two rounds:")
    for _ in range(2):
        for name, own in (("without", WITHOUT), ("with", {})):
            ran = [sys.executable, "-W", "ignore", "-c", CODE, backbone, size, str(people)]
            done = subprocess.run(ran, capture_output=True, text=True, cwd=ROOT, env=os.environ | own, check=True)
            seconds, pages, peak = (float(word) for word in done.stdout.split()[-3:])
            with capsys.disabled():
                print(f"  {name:8} {1e3 * seconds:7.1f} ms of CPU  {pages:7.0f} new pages  peak {peak:.0f} MB")
