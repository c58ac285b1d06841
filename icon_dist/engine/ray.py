"""Launch the training loop on Ray Train workers, and start it again when a process is lost.

Ray supervises processes; our own checkpoints decide the state (a returned ``ray.train.report`` is not yet durable, and
Ray retries a corrupt checkpoint for ever). So no checkpoint is reported to Ray, and a restart is simply a new worker
group whose loop finds the newest intact checkpoint by itself.
"""

from __future__ import annotations

import dataclasses
import os
import pkgutil
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from icon_dist import config as configuration
from icon_dist import errors
from icon_dist.config import Config
from icon_dist.engine import scratch
from icon_dist.engine.progress import Event, Progress


def launch(config: Config, loop: str, progress: Progress) -> None:
    """Run ``loop`` ("module:function") as ``f(config, report=..., device=...)`` on ``run.workers`` workers to its end.

    Joins the cluster named by RAY_ADDRESS (set inside ``ray job submit``), else starts one here for this run.
    Raises the loop's own IconError, or ClusterError when workers were lost more than ``run.max_failures`` times.
    """
    try:
        _connect(config, progress)
        supervise(config, loop, progress)
    finally:
        ray.shutdown()
        progress.close()


def supervise(config: Config, loop: str, progress: Progress) -> None:
    """The same on the cluster that this process is part of already, as a trial of a sweep is."""
    # Read when the trainer starts; 2 s by default, and every wait for a worker pays it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    losses: list[tuple[int, str]] = []
    while (lost := _attempt(config, loop, progress)) is not None:
        step, reason = lost
        if lost in losses:  # not bad luck: the loop fails there
            raise errors.ClusterError(f"step {step}: failed twice in the same way: {reason}")
        losses.append(lost)
        if len(losses) > config.run.max_failures:
            raise errors.ClusterError(
                f"workers were lost {len(losses)} times, the last time: {reason}; "
                "look at the nodes' memory and logs, then run the same command to resume"
            )
        progress.say(f"workers lost ({reason}); starting again from the newest checkpoint")


def _attempt(config: Config, loop: str, progress: Progress) -> tuple[int, str] | None:
    """One worker group from start to end: None when the loop finished, else the last reported step and the loss."""
    # On the driver's own node: the loss of another one must not take the mailbox with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
    with scratch.folder("ray") as storage_path:
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={"config": dataclasses.asdict(config), "loop": loop, "mailbox": mailbox},
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.run.workers,
                use_gpu=config.run.gpus_per_worker > 0,
                resources_per_worker={"CPU": config.run.cpus_per_worker, "GPU": config.run.gpus_per_worker},
            ),
            torch_config=ray.train.torch.TorchConfig(backend="nccl" if config.run.gpus_per_worker else "gloo"),
            run_config=ray.train.RunConfig(
                name=config.run.name,
                storage_path=storage_path,  # Ray keeps no state of ours
                failure_config=ray.train.FailureConfig(max_failures=0),
            ),
        )
        # Beside the main thread, because in it Ray would turn Ctrl-C into exit code 0.
        fit: Future[object] = Future()
        threading.Thread(target=_fulfil, args=(fit, trainer.fit), daemon=True).start()
        end: Exception | None = None
        step, over = 0, False
        while not over:
            over = wait([fit], timeout=0.5).done != set()  # before the last look into the mailbox
            for event in ray.get(mailbox.take.remote()):
                if event["kind"] == "fatal":
                    kind = getattr(errors, event["error"]) if event["error"] else _BugError
                    end = end or kind(event["text"])
                else:
                    step = event.get("step", step)
                    progress(event)
    lost = fit.exception()
    if lost is None:
        return None
    if end is not None:
        raise end
    if not isinstance(lost, ray.train.TrainingFailedError):
        raise lost
    return step, _reason(lost)


def _fulfil(future: Future[object], call: Callable[[], object]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _worker(payload: dict[str, Any]) -> None:
    loop = pkgutil.resolve_name(payload["loop"])
    mailbox = payload["mailbox"]
    first = ray.train.get_context().get_world_rank() == 0

    def report(event: Event) -> None:
        if first:
            mailbox.put.remote(event)

    try:
        loop(
            configuration.from_dict(payload["config"]),
            report=report,
            device=str(ray.train.torch.get_device()),
        )
    except Exception as error:
        if (event := fatal(error)) is not None:
            ray.get(mailbox.put.remote(event))
        raise


def fatal(error: Exception) -> Event | None:
    """What ends the run; None for a lost process and for what the others see of it: worth another start."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, torch.OutOfMemoryError):
        kind, text = "ClusterError", f"{text.splitlines()[0]} Lower optim.micro_batch; the same command resumes"
    elif isinstance(error, errors.ClusterError | RuntimeError | OSError):
        return None
    elif not isinstance(error, errors.IconError):
        kind, text = "", "".join(traceback.format_exception(error))
    return {"kind": "fatal", "error": kind, "text": text}


class _BugError(Exception):
    """A worker's traceback."""


class _Mailbox:
    """An actor between rank 0 and the driver; calls of one sender arrive in order."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _connect(config: Config, progress: Progress) -> None:
    need = {
        "CPU": config.run.workers * config.run.cpus_per_worker,
        "GPU": config.run.workers * config.run.gpus_per_worker,
    }
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, need["CPU"]),
                include_dashboard=True,  # without it Train leaks placement groups
                dashboard_host="127.0.0.1",
                dashboard_port=free_port(),
                log_to_driver=False,
                logging_level="ERROR",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise errors.ClusterError(f"RAY_ADDRESS={address}: {reason}; start one with 'ray start --head'") from None
    have = ray.cluster_resources()
    for kind, amount in need.items():
        if have.get(kind, 0) < amount:
            text = f"the cluster has {have.get(kind, 0):g} {kind}s, this run needs {amount:g} (run.workers)"
            if address == "local":
                ray.shutdown()
                raise errors.ClusterError(f"{text}; lower run.workers or run.gpus_per_worker")
            progress.say(f"{text}; waiting for more nodes to join")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _reason(error: Exception) -> str:
    """The last line that says something: Ray's own text is pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
