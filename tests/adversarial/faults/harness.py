"""Tiny runs on gloo ranks that die where they are told to and are started again: seconds a case.

The launcher's part, to end the others when one is lost, is played by :func:`start`. What a rank dies at is chosen by
wrapping functions in its process: no seam in the product.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.config import Config
from icon_dist.loggers.events import Event, Start
from icon_dist.training.loop import run_directory
from tests.support.training import WARM

PATIENCE = 120.0  # s, until a run counts as hung
POINTS = {  # (where the function is looked up, its name)
    "step": ("icon_dist.training.state", "State.agree"),
    "gather": ("icon_dist.distributed", "start_gather"),
    "batch": ("icon_dist.data.stream", "TrainStream.epoch"),
    "copy": ("icon_dist.training.state", "State.tensors"),
    "file": ("icon_dist.storage", "write"),
    "manifest": ("icon_dist.storage", "write_new"),
    "tidy": ("icon_dist.storage", "delete"),
}


@dataclass(frozen=True)
class Kill:
    """SIGKILL of a rank the ``at``-th time it comes to a point, or after some seconds of training."""

    point: str  # one of POINTS, or "time"
    at: float
    rank: int = 0

    def __str__(self) -> str:
        return f"rank {self.rank} killed at {self.point} {self.at:.3g}"


@dataclass(frozen=True)
class End:
    """What a finished run has come to."""

    step: int
    digest: str  # of every tensor of its last checkpoint
    people: dict[int, Counter[int]]  # by epoch, how often each was read
    logged: list[tuple[str, int]]  # kind and step of each line of metrics.jsonl


def start(config: Config, *, world: int, folder: Path, kill: Kill | None = None, patience: float | None = None) -> bool:
    """One attempt; whether it came to its end. AssertionError if it hangs or fails by itself.

    With ``patience``, in seconds, it waits no longer than that for storage, and may fail.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*WARM, __name__])
    store = folder / f"store-{os.urandom(4).hex()}"
    running: dict[int, BaseProcess] = {}
    training = context.Event()
    for rank in range(world):
        process = context.Process(
            target=_member, args=(rank, world, str(store), config, kill, patience, training, dict(os.environ))
        )
        process.start()
        running[process.sentinel] = process
    ranks = list(running.values())
    deadline = time.monotonic() + PATIENCE
    if kill is not None and kill.point == "time":
        while not training.wait(0.05) and all(p.is_alive() for p in ranks):
            pass
        wait([p.sentinel for p in ranks], timeout=kill.at)
        if ranks[kill.rank].is_alive():
            os.kill(ranks[kill.rank].pid or 0, signal.SIGKILL)
    while running:
        ended = wait(list(running), timeout=max(0.0, deadline - time.monotonic()))
        lost = not ended
        for sentinel in ended:
            process = running.pop(int(sentinel))  # type: ignore[call-overload]
            process.join()
            lost |= process.exitcode != 0
        if lost:
            for process in running.values():
                process.kill()
                process.join()
            break
    codes = [process.exitcode for process in ranks]
    assert time.monotonic() < deadline, f"hangs: exit codes {codes}"
    killed = kill is not None and codes[kill.rank] == -signal.SIGKILL
    ended = codes == [0] * world
    assert ended or killed or patience is not None, f"failed by itself: exit codes {codes}"
    return ended


def _member(
    rank: int,
    world: int,
    store: str,
    config: Config,
    kill: Kill | None,
    patience: float | None,
    training: Any,
    env: dict[str, str],
) -> None:
    os.environ.update(env)  # the server's is older
    warnings.simplefilter("ignore")  # of the libraries, in a process that pytest does not see
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    if kill is not None and kill.rank == rank and kill.point != "time":
        _arm(kill)
    if patience is not None:
        from icon_dist.storage import retry as limits

        limits.PATIENCE_S = limits.FIRST_PATIENCE_S = patience
    from icon_dist.loggers.logger import Logger
    from icon_dist.training.loop import train

    logger = Logger(run_directory(config), out=open(os.devnull, "w"))  # noqa: SIM115

    def report(event: Event) -> None:
        if isinstance(event, Start):
            training.set()
        if rank == 0:
            logger(event)

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    train(config, report=report, device="cpu")
    if rank == 0:
        logger.close()
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
    os._exit(0)  # the parent's handlers of an exit are not ours


def _arm(kill: Kill) -> None:
    module, _, path = POINTS[kill.point][0], ".", POINTS[kill.point][1]
    owner: Any = __import__(module, fromlist=["_"])
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function: Callable[..., Any] = getattr(owner, name)
    count = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == kill.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, deadly)


def end_of(config: Config) -> End:
    """Raises CheckpointError where a run left no intact checkpoint."""
    run = run_directory(config)
    found = checkpoint.find(run, warn=lambda _: None)
    assert found is not None
    digest = hashlib.sha256()
    for file in sorted(found.manifest["files"]):
        if file.endswith(".safetensors"):
            for name, tensor in sorted(found.tensors(file.removesuffix(".safetensors")).items()):
                digest.update(f"{file} {name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    people: dict[int, Counter[int]] = {}
    for name in storage.listing(storage.join(run, "samples")):
        for line in storage.read(storage.join(run, "samples", name)).decode().splitlines():
            record = json.loads(line)
            for rank in record["people"]:
                people.setdefault(record["epoch"], Counter()).update(rank)
    lines = map(json.loads, storage.read(storage.join(run, "metrics.jsonl")).splitlines())
    return End(found.step, digest.hexdigest(), people, [(line["kind"], line["step"]) for line in lines])
