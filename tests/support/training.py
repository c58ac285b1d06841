"""Run the training loop on real gloo processes without Ray: a few seconds a run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import os
import pkgutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.loggers.events import Note, Report
from icon_dist.loggers.logger import Logger

# What the server that forks ranks and verbs imports once (one server of a process serves all): them, what they import
# later (seconds each), and what a child asks for.
WARM = [
    *("icon_dist.train", "icon_dist.evaluate", "icon_dist.fetch", "icon_dist.doctor"),
    *("icon_dist.training.driver", "icon_dist.reports.evaluation"),
    *("icon_dist.shards.packing", "icon_dist.shards.verification", "icon_dist.shards.contact_sheet"),
    *(
        "deepspeed",
        "torch._dynamo",
        "pandas",
        "pyarrow.dataset",
        "pytest",
        "tests.support.training",
        "tests.adversarial.hostile.isolated",
    ),
]
TINY = {
    "data.loaders": 0,
    "data.input": "32x32",
    "data.cache_mb": 0,
    "model.backbone": "hrnet_small",
    "model.embedding": 16,
    "loss.start_epoch": 0,
    "loss.ramp_epochs": 0,
    "loss.bank.slots": 32,
    "loss.bank.warmup": 2,
    "optim.epochs": 3,
    "optim.batch": 16,
    "optim.micro_batch": 8,
    "optim.lr": 4e-3,
    "optim.milestones": (2,),
    "run.log_every": 1,
    "eval.every": 1,
    "eval.batch": 16,
}


def tiny(people: Path, run_dir: str | Path, **more: Any) -> Config:
    """The demo's config on the ``people`` fixture, small enough for seconds; ``more`` is section__key=value."""
    values = {"data.train": f"{people}/train", "data.val": f"{people}/val", "run.dir": str(run_dir)}
    return configuration.load("demo", TINY | values | {key.replace("__", "."): value for key, value in more.items()})


def arguments(people: Path, run_dir: Path, **more: object) -> list[str]:
    """``tiny`` as what a user types after ``python``."""
    values = TINY | {"data.train": f"{people}/train", "data.val": f"{people}/val", "run.dir": str(run_dir)}
    values |= {key.replace("__", "."): value for key, value in more.items()}
    text = {key: str(list(value) if isinstance(value, tuple) else value) for key, value in values.items()}
    return ["-m", "icon_dist.train", "--cfg", "demo", *(f"{key}={value}" for key, value in text.items())]


def run_gang(*configs: Config, scratch: Path, world: int = 2, loop: str = "icon_dist.training.loop:train") -> None:
    """``loop(config)`` for one config after the other on ``world`` processes; an exception in one is raised here."""
    store = scratch / f"store-{os.urandom(4).hex()}"
    start(_member, world, str(store), [dataclasses.asdict(config) for config in configs], loop, world=world)


def start(member: Callable[..., None], *arguments: Any, world: int) -> None:
    """``member(rank, *arguments)`` in ``world`` processes as new as ``mp.spawn``'s, without its imports."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(WARM)
    passed = (dict(os.environ), member, arguments)
    start_processes(_enter, passed, nprocs=world, start_method="forkserver")  # type: ignore[no-untyped-call]


def _enter(rank: int, environment: dict[str, str], member: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)  # the server's is older
    member(rank, *arguments)


def _member(rank: int, world: int, store: str, runs: list[dict[str, Any]], loop: str) -> None:
    warnings.simplefilter("ignore")  # of the libraries, in a process that pytest does not see
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    from icon_dist.training.loop import run_directory

    try:
        for values in runs:
            config = configuration.from_dict(values)
            report = Logger(run_directory(config), out=io.StringIO()) if rank == 0 else (lambda _: None)
            try:
                pkgutil.resolve_name(loop)(config, report=report, device="cpu")
            finally:
                if isinstance(report, Logger):
                    report.close()  # a forked process has no end at which what is left would be tidied
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def broken(config: Config, *, report: Report, device: str, stop: Callable[[], bool]) -> None:
    """A loop with a bug that looks like what the others see of a lost process."""
    del config, device, stop
    report(Note("about to fail"))
    raise RuntimeError("shapes do not fit")


def bereft(config: Config, *, report: Report, device: str, stop: Callable[[], bool]) -> None:
    """The first time rank 1 dies, and rank 0 fails because it has no group any more, which Ray may have ended."""
    del device, stop
    died = Path(config.run.dir) / "died"
    if died.exists():
        report(Note("both are back"))
        return
    if dist.get_rank() == 1:
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with contextlib.suppress(RuntimeError):
        dist.barrier()
    dist.destroy_process_group()
    raise AssertionError("DeepSpeed backend not set")
