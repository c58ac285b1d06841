"""Which errors of a worker end a run, and which are worth another start."""

from __future__ import annotations

import pytest
import torch

from icon_dist import errors

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
    from icon_dist.engine.worker import fatal

    assert fatal(error) is None


def test_an_error_for_the_user_keeps_its_kind() -> None:
    from icon_dist.engine.worker import fatal

    event = fatal(errors.DataError("shard.tar: cut"))
    assert event == {"kind": "fatal", "error": "DataError", "text": "shard.tar: cut"}


def test_too_little_gpu_memory_does_not_pass_by_itself() -> None:
    from icon_dist.engine.worker import fatal

    event = fatal(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmany lines"))
    assert event is not None
    assert event["error"] == "ClusterError"
    assert event["text"].startswith("CUDA out of memory. Tried to allocate 2.00 GiB. Lower optim.micro_batch")


def test_a_bug_is_shown_with_its_traceback() -> None:
    from icon_dist.engine.worker import fatal

    try:
        {}["missing"]
    except KeyError as error:
        event = fatal(error)
    assert event is not None
    assert not event["error"]
    assert "test_lost_or_fatal.py" in event["text"]
