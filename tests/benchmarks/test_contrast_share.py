"""What contrast adds to a training step on a CPU: the loss and its projection head, with banks in use from the start.

CPU time of the loop's own steps on crops in memory, in turns, printed and not asserted::

    OMP_NUM_THREADS=1 pytest -m slow tests/benchmarks/test_contrast_share.py -s
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.setting import Learning, Setting, config, crops, fill_banks

ARMS: dict[str, dict[str, Any]] = {"without": {"loss__lambda_p": 0}, "with": {}}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("size", "people", "embedding", "points", "rounds"), [("64x64", 16, 64, 4, 20), ("256x192", 8, 256, 16, 8)]
)
def test_share(
    size: str, people: int, embedding: int, points: int, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    here = Setting("cpu", tiny=True, data=Path(), out=Path(), scratch=Path(), ends=0.0)
    sizes = {"data__input": size, "model__embedding": embedding, "loss__points": points, "loss__bank__slots": 512}
    arms = {name: Learning(config(here, **sizes, **arm), device="cpu") for name, arm in ARMS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for name, learning in arms.items():
        if name != "without":
            fill_banks(learning.method)
    for step in range(rounds + 1):
        batch = crops(arms["without"].cfg, people, device="cpu", seed=step)
        for name, learning in arms.items():
            start = time.process_time()
            learning.step(batch)
            seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    with capsys.disabled():
        print(f"\nsmall HRNet at {size}, {people} people, {points} points, m = {embedding}:")
        for name, each in median.items():
            added = each / median["without"] - 1
            print(f"  {name:20} {1e3 * each:7.1f} ms  {people / each:6.1f} img/s  +{100 * added:.0f} %")
