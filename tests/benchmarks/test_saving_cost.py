"""What a checkpoint of about 100 MB costs the training beside it, and how soon SIGTERM has one; printed, not asserted.

``pytest -m slow -s tests/benchmarks/test_saving_cost.py``
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icon_dist import train
from icon_dist.checkpoints.background_saver import Saver
from icon_dist.errors import StoppedError
from icon_dist.training.state import State
from tests.support.commands import one_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
EPOCHS = 8  # of 8 steps, with a checkpoint after each
SIZE = ("model.backbone=hrnet_w18", "data.val=", "optim.batch=8", "run.checkpoint_every=1", "run.keep=1", "run.zero=1")


class Clock:
    """Seconds that the loop's thread and the one beside it spend in some functions, by the wall and of CPU.

    On a machine that others use as well only CPU seconds mean something.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.spent: dict[str, list[float]] = {}
        self.on_step: Callable[[int], None] = lambda _: None
        functions = ((State, "tensors"), (State, "advance"), (Saver, "save"), (Saver, "commit"))
        for owner, name in functions:
            patch.setattr(owner, name, self._timed(name, getattr(owner, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(self_: Any, *arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return call(self_, *arguments, **named)
            finally:
                spent = self.spent.setdefault(name, [0.0, 0.0])
                spent[0] += time.perf_counter() - wall
                spent[1] += time.thread_time() - cpu
                if name == "advance":
                    self.on_step(self_.step)

        return timed


def size_of(runs: Path) -> float:
    (newest,) = (runs / "first" / "checkpoints").iterdir()
    return sum(file.stat().st_size for file in newest.iterdir()) / 1e6


def test_what_a_checkpoint_costs_the_loop(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    times: list[tuple[float, float]] = []  # after each step
    clock.on_step = lambda _: times.append((time.perf_counter(), time.process_time()))
    train.main(one_process(people, tmp_path, *SIZE, f"optim.epochs={EPOCHS}"))
    copying, waiting, beside = ([s / EPOCHS for s in clock.spent[name]] for name in ("tensors", "save", "commit"))
    stopped, work = copying[0] + waiting[0], copying[1] + waiting[1] + beside[1]
    # between the first step and the last there is a checkpoint for every epoch but one
    wall, cpu = (last - first for first, last in zip(times[0], times[-1], strict=True))
    steps = len(times) - 1
    step, step_cpu = (wall - stopped * (EPOCHS - 1)) / steps, (cpu - work * (EPOCHS - 1)) / steps
    for line in (
        f"{size_of(tmp_path):.0f} MB, {os.cpu_count()} cores",
        f"a checkpoint stops the loop for {stopped:.2f} s and is written in {beside[0]:.2f} s; a step {step:.2f} s",
        f"CPU: {work:.2f} s a checkpoint, of which {beside[1]:.2f} beside the loop; a step {step_cpu:.2f} s",
        f"2 % of the time with one in {50 * stopped / step:.0f} steps, of the CPU in {50 * work / step_cpu:.0f}",
    ):
        print(line)


def test_from_sigterm_to_a_checkpoint(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def ask(step: int) -> None:
        if step == 5:  # in the middle of an epoch
            asked.append(time.time())
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()

    Clock(monkeypatch).on_step = ask
    with pytest.raises(StoppedError) as left:
        train.main(one_process(people, tmp_path, *SIZE, "run.checkpoint_every=2"))
    ended = time.time()
    (manifest,) = tmp_path.glob("first/checkpoints/*/MANIFEST.json")
    assert left.value.exit_code == 75
    print(
        f"\n{size_of(tmp_path):.0f} MB: committed {manifest.stat().st_mtime - asked[0]:.2f} s after SIGTERM, "
        f"the command ended after {ended - asked[0]:.2f} s"
    )
