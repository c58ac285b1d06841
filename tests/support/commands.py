"""``icon_dist.train`` as a user types it, in this process, and what it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.training import TINY

Tree = dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error, which is the last line, whole, and without a traceback before it."""
        assert "Traceback" not in self.err
        *_, last = self.err.splitlines()
        assert last.startswith("icon_dist: error: ")
        assert self.err.count("icon_dist: error:") == 1
        return last


Command = Callable[..., Outcome]


def tree(folder: Path) -> Tree:
    """Every file with its hash and its time of change."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def one_process(people: Path, runs: Path, *more: str) -> list[str]:
    """A run of seconds in this process: 2 epochs of 64 // 16 = 4 steps."""
    places = [f"data.train={people}/train", f"data.val={people}/val", f"run.dir={runs}", "run.name=first"]
    small = [f"{key}={value}".replace("(", "[").replace(",)", "]") for key, value in TINY.items()]
    alone = [
        "run.launcher=local",
        "run.workers=1",
        "run.zero=0",
        "optim.epochs=2",
        "optim.milestones=[1]",
        "optim.ema=0.9",
    ]
    alone += ["optim.warmup_steps=4", "optim.micro_batch=16"]  # accumulation: test_skipped_steps.py
    return ["--cfg", "demo", *places, *small, *alone, *more]


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "first" / "checkpoints").iterdir())
