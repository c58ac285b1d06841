"""What the phases of the check share: rows of figures, a deadline, time on a device, and a learner."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.datasets import load_skeleton
from icon_dist.loggers.events import Event, Note
from icon_dist.methods.from_config import Method, method_of
from icon_dist.models import from_config
from icon_dist.training.cuda_graph import GraphedStep
from icon_dist.training.ema import Average
from icon_dist.training.engine import wrap
from icon_dist.training.loop import Run
from icon_dist.training.optimizer import adam
from icon_dist.training.precision import use_precision
from icon_dist.training.setup import Learner
from icon_dist.training.state import State
from icon_dist.training.step_flags import Flags
from icon_dist.types import Batch

ROOT = Path(__file__).resolve().parent.parent.parent
COCO = load_skeleton("coco")
STEPS = 1000  # of an epoch


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    value: float | str
    unit: str = ""
    ok: bool | None = None  # of what must hold
    note: str = ""


Rows = Iterator[Row]


def within(name: str, value: float, most: float, unit: str = "") -> Row:
    """A figure that must not be larger; NaN is."""
    return Row(name, value, unit, ok=value <= most, note=f"at most {most:g}")


def failed(name: str, error: Exception, *, ok: bool | None = None) -> Row:
    """What could not run: why, and below that where."""
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Row(name, "fails", ok=ok, note=f"{why}\n{''.join(traceback.format_exception(error))}")


@dataclass(frozen=True)
class Setting:
    """Where and on what a phase runs, and how long it may."""

    device: str
    tiny: bool  # a rehearsal: everything small
    data: Path  # shards: train and val
    out: Path
    scratch: Path  # for what nobody needs afterwards
    ends: float  # time.monotonic()

    @property
    def left(self) -> float:
        """Seconds of the phase."""
        return self.ends - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device != "cpu"

    @property
    def input(self) -> str:
        return "64x64" if self.tiny else "256x192"

    def finish(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def milliseconds(self, one: Callable[[], object], *, warm: int = 2, seconds: float = 0.8, most: int = 30) -> float:
        """Median time of a call on the device, of as many in a row as fit in so many seconds."""
        warm, least, most = (0, 1, 1) if self.tiny else (warm, 2, most)
        for _ in range(warm):
            one()
        self.finish()
        marks, began = [self._mark()], time.perf_counter()
        while len(marks) <= most and (len(marks) <= least or time.perf_counter() - began < seconds):
            one()
            marks.append(self._mark())
        self.finish()
        between = [self._between(a, b) for a, b in pairwise(marks)]
        return sorted(between)[len(between) // 2]

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second)) if self.cuda else 1e3 * (second - first)


def background(*arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    """Another Python on a module."""
    with log.open("wb") as file:
        words = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)


def without_deepspeed() -> None:
    """The engine in plain torch, also where DeepSpeed is installed: a bare machine has none."""
    sys.modules["deepspeed"] = None


def config(setting: Setting, **values: Any) -> Config:
    """The preset ``coco`` in one process; ``a__b=c`` is the value at ``a.b``."""
    base = {
        "data.input": setting.input,
        "model.backbone": "hrnet_small" if setting.tiny else "hrnet_w32",
        "model.embedding": 16 if setting.tiny else 256,
        "loss.points": 4 if setting.tiny else 16,
        "loss.bank.slots": 32 if setting.tiny else 512,
        "loss.bank.warmup": 0,
        "run.workers": 1,
        "run.launcher": "local",
        "run.log_every": 10**6,
    }
    return configuration.load("coco", base | {key.replace("__", "."): value for key, value in values.items()})


class Learning:
    """What a Run has that its steps need: all of it the package's own, but its data and its directory."""

    def __init__(self, cfg: Config, *, device: str) -> None:
        self.cfg, self.device = cfg, device
        use_precision(cfg.run.precision)
        torch.manual_seed(cfg.run.seed)
        self.model = from_config.build(cfg, COCO).to(device).train()
        self.method: Method = method_of(cfg, COCO, self.model, micro_batch=cfg.optim.micro_batch, teacher=None)
        bf16 = cfg.run.precision == "bf16" or (cfg.run.precision == "auto" and device != "cpu")
        optimizer = adam(self.model, lr=cfg.optim.lr)
        self.engine = wrap(
            self.model, optimizer, zero=0, micro_batch=1, accumulation=1, world=1, bf16=bf16, compiled=False
        )
        self.state = State(self.model, None, steps_per_epoch=STEPS)
        self.average = Average(self.model, decay=cfg.optim.ema) if cfg.optim.ema else None
        self.state.complete(self.engine, bank=self.method, ema=self.average)
        self.plan = SimpleNamespace(steps_per_epoch=STEPS, accumulation=1, total_steps=1 << 30)
        self.samples, self.warned = None, set[str]()
        self.flags, self.leaving = Flags(late=device != "cpu"), False
        self.graphed: GraphedStep | None = None
        self.events: list[Event] = []
        self.report = self.events.append

    @property
    def learner(self) -> Learner:
        return Learner(self.model, self.method, self.engine, self.average, self.state, None, {})

    def stop(self) -> bool:
        return False

    def note(self, text: str) -> None:
        self.report(Note(text))

    make, noted, heed, log = Run.make, Run.noted, Run.heed, Run.log

    def step(self, batch: Batch) -> None:
        """One of the loop's own steps."""
        Run.step(self, iter([batch]))

    def loss(self, batch: Batch) -> Tensor:
        """Of a batch, as the next step would see it."""
        epoch = self.state.step / STEPS
        return self.method(self.engine, batch, step=self.state.step, epoch=epoch, diagnose=False).total


def crops(cfg: Config, people: int, *, device: str, seed: int = 0) -> Batch:
    """People of random pixels with random joints, made on the CPU: the same on every device."""
    g = torch.Generator().manual_seed(seed)
    height, width = cfg.input_hw
    joints = torch.rand(people, COCO.num_joints, 2, generator=g) * torch.tensor([width - 1.0, height - 1.0])
    visible = torch.rand(people, COCO.num_joints, generator=g) < 0.9
    number = torch.arange(people) + seed * people
    return Batch(
        image=torch.randint(0, 256, (people, height, width, 3), generator=g, dtype=torch.uint8),
        joints=joints,
        labelled=torch.ones_like(visible),
        visible=visible,
        instance=number,
        image_id=number // 2,
        row=number,
        to_photo=torch.eye(2, 3).expand(people, -1, -1).contiguous(),
    ).to(device)


def fill_banks(method: Method) -> None:
    """Banks of random people that have been used since step 0."""
    g = torch.Generator().manual_seed(0)
    state = method.state_dict()
    for name, tensor in state.items():
        kind = name.rpartition(".")[2]
        if kind == "features":
            state[name] = F.normalize(torch.randn(tensor.shape, generator=g), dim=-1)
        elif kind == "filled":
            state[name] = torch.full_like(tensor, state[name.replace("filled", "features")].shape[1])
        elif kind == "instance":
            state[name] = torch.randint(10**6, 2 * 10**6, tensor.shape, generator=g)
        else:  # step, next, began
            state[name] = torch.zeros_like(tensor)
    method.load_state_dict(state)
