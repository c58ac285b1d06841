"""Which errors of a worker end a run, and which are worth another start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from icon_dist import errors
from icon_dist.loggers.events import Fatal

# What Ray warns of on its import is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo] Connection closed by peer"),
        torch.distributed.DistBackendError("NCCL communicator was aborted"),
        ConnectionResetError(104, "Connection reset by peer"),
        errors.ClusterError("loader process 0 (pid 1) died with exit code -9"),
    ],
)
def test_a_lost_process_is_worth_another_start(error: Exception) -> None:
    from icon_dist.launch.worker import fatal

    assert fatal(error) is None


def test_an_error_for_the_user_keeps_its_kind() -> None:
    from icon_dist.launch.worker import fatal

    event = fatal(errors.DataError("shard.tar: cut"))
    assert event == Fatal("DataError", "shard.tar: cut")


def test_too_little_gpu_memory_does_not_pass_by_itself() -> None:
    from icon_dist.launch.worker import fatal

    event = fatal(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmany lines"))
    assert event is not None
    assert event.error == "ClusterError"
    assert event.text.startswith("CUDA out of memory. Tried to allocate 2.00 GiB. Lower optim.micro_batch")


def test_a_gpu_that_fails_is_not_a_lost_worker() -> None:
    from icon_dist.launch.worker import fatal

    event = fatal(torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmany lines"))
    assert event is not None
    assert event.error == "ClusterError"
    assert event.text.startswith("CUDA error: an illegal memory access was encountered; ")


def test_a_bug_is_shown_with_its_traceback() -> None:
    from icon_dist.launch.worker import fatal

    try:
        {}["missing"]
    except KeyError as error:
        event = fatal(error)
    assert event is not None
    assert not event.error
    assert Path(__file__).name in event.text


GLOO = (
    "Traceback\n  many lines\nRuntimeError: [/build/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error "
    "[127.0.0.1]:15000: Connection reset by peer. This is typically caused by a remote worker hanging. GLHF!"
)


def test_what_is_said_of_a_lost_group() -> None:
    """The worker that died, else the error of the one that the others have lost, else what they saw."""
    import ray
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from icon_dist.launch.ray import why_lost

    seen, bug, dead = RuntimeError(GLOO), RuntimeError("Traceback\nshapes do not fit"), ray.exceptions.ActorDiedError()
    assert why_lost(WorkerGroupError("", {0: seen, 2: dead})) == ("worker 2 died", True)
    unheard = WorkerHealthCheckFailedError("A worker health check failed.", failure=dead)
    assert why_lost(WorkerGroupError("", {0: unheard, 1: unheard, 2: seen})) == ("workers 0, 1 died", True)
    assert why_lost(WorkerGroupError("", {0: seen, 1: bug})) == ("shapes do not fit", False)
    broken = "a connection between workers broke: Read error [127.0.0.1]:15000: Connection reset by peer"
    assert why_lost(WorkerGroupError("", {0: seen})) == (broken, True)
    assert why_lost(ControllerError(dead)) == ("a worker died before all had started", True)
    assert why_lost(ControllerError(ValueError("no such node"))) == ("no such node", False)
