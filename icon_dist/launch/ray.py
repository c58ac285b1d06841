"""Launch the training loop on Ray Train workers, and start it again when a process is lost.

Ray supervises processes; our own checkpoints decide the state (a returned ``ray.train.report`` is not yet durable, and
Ray retries a corrupt checkpoint for ever). So no checkpoint is reported to Ray, and a restart is simply a new worker
group whose loop finds the newest intact checkpoint by itself.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import ray
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from icon_dist import errors
from icon_dist.config import Config
from icon_dist.errors import plural
from icon_dist.launch import capacity
from icon_dist.launch.connect import connect
from icon_dist.launch.mailbox import Mailbox
from icon_dist.launch.ray_compat import draining_nodes
from icon_dist.launch.signals import Stop
from icon_dist.launch.worker import work
from icon_dist.loggers.events import Fatal, Listening, Stopped, Up
from icon_dist.loggers.logger import Logger
from icon_dist.storage import lock, tempdirs


def launch(config: Config, loop: str, logger: Logger, *, counts: Sequence[int] = ()) -> None:
    """Run ``loop`` ("module:function") as ``f(config, report=..., device=..., stop=...)`` on Ray workers to its end.

    Joins the cluster named by RAY_ADDRESS (set inside ``ray job submit``), else starts one here for this run.
    ``counts`` of workers will do, the most first; default ``run.workers``. Raises the loop's own IconError,
    ClusterError when workers were lost more than ``run.max_failures`` times, or StoppedError.
    """
    counts = counts or (config.run.workers,)
    with Stop() as stop, logger:
        try:
            for left in reversed(range(config.run.max_failures + 1)):
                try:
                    with logger.waiting("starting Ray"):
                        _join(config, logger, workers=counts[-1])
                    supervise(config, loop, logger, counts=counts, stop=stop)
                    break
                except _ControllerLostError as error:
                    if not left or stop.reason:
                        raise
                    logger.say(f"{error}; starting again from the newest checkpoint")
                    ray.shutdown()  # what the controller held is free only now
        finally:
            ray.shutdown()


def supervise(
    config: Config, loop: str, logger: Logger, *, counts: Sequence[int] = (), stop: Stop | None = None
) -> None:
    """The same on the cluster that this process is part of already, as a trial of a sweep is."""
    # Read when the trainer starts; 2 s by default, and every wait for a worker pays it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process more, for what is watched here
    counts, stop = counts or (config.run.workers,), stop or Stop()
    losses: list[tuple[int, str]] = []
    while True:
        workers = capacity.choose(counts, config.run)
        of = f" (run.workers={counts[0]}, run.workers_min={config.run.workers_min})" if len(counts) > 1 else ""
        logger.say(f"starting {plural(workers, 'worker')}{of}")
        end = _attempt(config, loop, logger, workers=workers, patient=workers == counts[-1], stop=stop)
        if end.stopped and end.lost:
            if stop.reason or capacity.room(config.run) < counts[-1] or len(counts) == 1:
                stop.reason = stop.reason or end.lost
                raise stop.stopped(end.step)
            logger.say(f"{end.lost}; going on without it from step {end.step}")
            continue
        if not end.lost:
            return
        if stop.reason:
            raise stop.stopped(None)
        lost = (end.step, end.lost)
        if lost in losses and not end.died:  # not bad luck: the loop fails there
            raise errors.ClusterError(f"step {end.step}: failed twice in the same way: {end.lost}")
        losses.append(lost)
        if len(losses) > config.run.max_failures:
            raise errors.ClusterError(
                f"workers were lost {len(losses)} times, the last time: {end.lost}; "
                "look at the nodes' memory and logs, then run the same command to resume"
            )
        logger.say(f"workers lost ({end.lost}); starting again from the newest checkpoint")


@dataclasses.dataclass
class _End:
    """Of one worker group."""

    step: int = 0  # that was reported last
    stopped: bool = False  # because it was asked to, with a checkpoint of that step
    lost: str = ""  # why it did not come to the end of the run
    died: bool = False  # that is, a process or a node did


def _attempt(config: Config, loop: str, logger: Logger, *, workers: int, patient: bool, stop: Stop) -> _End:
    """One worker group from start to end; ``patient``: where it has no room, it waits for nodes as long as it takes."""
    # On the driver's own node: the loss of another one must not take the mailbox with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lives = {"max_restarts": -1, "max_task_retries": -1}  # Ray may kill it, too, when memory is short
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here, **lives)(Mailbox).remote()
    stop.heard = False
    with tempdirs.Folder("ray") as storage_path, logger.waiting("waiting for the first step") as started:
        trainer = ray.train.torch.TorchTrainer(
            work,
            train_loop_config={
                "config": dataclasses.asdict(config),
                "loop": loop,
                "mailbox": mailbox,
                "locks": lock.tokens(),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=config.run.gpus_per_worker > 0,
                resources_per_worker={"CPU": config.run.cpus_per_worker, "GPU": config.run.gpus_per_worker},
            ),
            torch_config=ray.train.torch.TorchConfig(backend="nccl" if config.run.gpus_per_worker else "gloo"),
            run_config=ray.train.RunConfig(
                name=config.run.name,
                storage_path=storage_path,  # Ray keeps no state of ours
                failure_config=ray.train.FailureConfig(
                    max_failures=0,
                    max_preemption_failures=0,
                    controller_failure_limit=-1 if patient else 0,  # groups of this size that did not start
                ),
            ),
        )
        # Beside the main thread, because in it Ray would turn Ctrl-C into exit code 0.
        fit: Future[object] = Future()
        threading.Thread(target=_fulfil, args=(fit, trainer.fit), daemon=True).start()
        end, error = _End(), None
        over = False
        nodes: set[str] = set()
        up = 0  # workers that have begun
        why = ""
        while not over and not (end.stopped and stop.reason):  # all is saved: Ray's own end takes seconds more
            over = wait([fit], timeout=0.5).done != set()  # before the last look into the mailbox
            lock.check()
            for event in ray.get(mailbox.take.remote()):
                match event:
                    case Fatal(kind, text):
                        failure = getattr(errors, kind) if kind else _BugError
                        error = error or failure(text)
                    case Up(node):
                        nodes.add(node)
                        up += 1
                        if up == workers:
                            logger.say(f"{plural(workers, 'worker')} up, loading model and data")
                    case Listening():
                        stop.heard = True
                    case _:
                        started.set()
                        end.step = getattr(event, "step", end.step)
                        end.stopped |= isinstance(event, Stopped)
                        logger(event)
            leaving = "preemption of a node" if not why and nodes & draining_nodes() else ""
            why = stop.reason or why or leaving
            if why:
                mailbox.ask_to_stop.remote()  # every time: one that was lost and made again has forgotten it
    if end.stopped:
        end.lost = why
        return end
    if (lost := fit.exception()) is None:
        return end
    if error is not None:
        raise error
    if isinstance(lost, ray.exceptions.RayError):
        reason = errors.shorten(str(lost).split(". ")[0].splitlines()[0])
        raise _ControllerLostError(f"Ray's controller of the workers was lost ({reason})")
    if not isinstance(lost, ray.train.TrainingFailedError):
        raise lost
    end.lost, end.died = why_lost(lost)
    return end


def _fulfil(future: Future[object], call: Callable[[], object]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


class _ControllerLostError(errors.ClusterError):
    """Ray's process that watches over the workers died: the kernel or Ray itself killed it where memory was short."""


class _BugError(Exception):
    """A worker's traceback."""


def _join(config: Config, logger: Logger, *, workers: int) -> None:
    need = {"CPU": workers * config.run.cpus_per_worker, "GPU": workers * config.run.gpus_per_worker}
    address = connect(cpus=need["CPU"])
    have = ray.cluster_resources()
    for kind, amount in need.items():
        if have.get(kind, 0) < amount:
            text = f"the cluster has {have.get(kind, 0):g} {kind}s, this run needs {amount:g} (run.workers)"
            if address == "local":
                raise errors.ClusterError(f"{text}; lower run.workers or run.gpus_per_worker")
            logger.say(f"{text}; waiting for more nodes to join")


def why_lost(error: Exception) -> tuple[str, bool]:
    """Return what to say of a lost group in one line, and whether a process died; Ray's own text is pages long."""
    if isinstance(getattr(error, "controller_failure", None), ray.exceptions.RayActorError):
        return "a worker died before all had started", True
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in sorted(failures.items())}
    if dead := [str(rank) for rank, cause in causes.items() if isinstance(cause, ray.exceptions.RayActorError)]:
        return f"{'worker' if len(dead) == 1 else 'workers'} {', '.join(dead)} died", True
    broken = ""
    for failure in failures.values() or [error]:
        text = ([line.strip() for line in str(failure).splitlines() if line.strip()] or [type(failure).__name__])[-1]
        found = re.search(r"gloo/transport/\S+\] (.*?)(\. This is typically .*)?$", text)
        if not found:
            return text, False
        broken = f"a connection between workers broke: {found[1]}"  # what the others see of it
    return broken, True
