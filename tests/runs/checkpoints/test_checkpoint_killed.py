"""kill -9 of the saving process before and after every change that it makes to the storage."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from icon_dist import storage
from icon_dist.checkpoints import checkpoint, manifest
from icon_dist.storage.s3_client import client as client_of_s3

CHANGES = ["write", "write_new", "delete"]


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else str(request.getfixturevalue("s3"))


def save(run: str, step: int, *, attempt: str) -> None:
    tensors = {name: {"x": torch.full((64,), float(step))} for name in ("model", "optimizer", "bank")}
    score = {1: 0.5}.get(step, 0.1 * step)
    checkpoint.save(
        run, step=step, attempt=attempt, tensors=tensors, state={"step": step}, manifest={"score": score}, keep=1
    )


def killed_save(run: str, step: int, *, at: int, after: bool) -> int:
    """Save in a child that dies at its ``at``-th change; returns its exit code."""

    def child() -> None:
        count = 0

        def deadly(change: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == at and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = change(*args, **kwargs)
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return wrapped

        for name in CHANGES:
            setattr(storage, name, deadly(getattr(storage, name)))
        save(run, step, attempt="killed")
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def intact_step(run: str) -> int:
    found = checkpoint.find(run, warn=lambda _: None)
    assert found is not None
    for name in ("model", "optimizer", "bank"):
        assert torch.equal(found.tensors(name)["x"], torch.full((64,), float(found.step)))
    assert found.state() == {"step": found.step}
    return found.step


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_point_leaves_an_intact_checkpoint(run: str, after: bool) -> None:
    """A save makes 10 changes here: 4 files, the manifest, 2 pointers, the old manifest and folder,
    the index."""
    survived = 0
    remote = [4, 5] if after else [5]  # the commit and what is before it: over HTTP all of them take long
    for at in remote if storage.is_remote(run) else range(1, 40):
        place = storage.join(run, str(at))
        save(place, 1, attempt="first")
        save(place, 2, attempt="second")
        code = killed_save(place, 3, at=at, after=after)
        before_commit = at <= 5 - after
        assert intact_step(place) == (2 if before_commit else 3), at
        save(place, 3, attempt="third")  # the restarted run comes by the same step
        assert intact_step(place) == 3
        save(place, 4, attempt="third")
        folders = {name.split("/")[0] for name in storage.listing(storage.join(place, "checkpoints"))}
        assert folders == {"step-00000001-first", "step-00000004-third"}, at  # best and newest; no litter
        if code == 0:
            break
        assert code == -signal.SIGKILL
        survived += 1
    assert survived == 10 or storage.is_remote(run)


@pytest.mark.parametrize("point", ["fsync", "replace", "link", "unlink", "rmdir"])
def test_a_kill_inside_a_local_save(tmp_path: Path, point: str) -> None:
    """Each system call of committing step 3 and removing step 2 in turn, until the save gets through."""
    for at in range(1, 60):
        run = str(tmp_path / str(at))
        save(run, 1, attempt="first")
        save(run, 2, attempt="first")

        def child(run: str = run, at: int = at) -> None:
            call, count = getattr(os, point), 0

            def deadly(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            setattr(os, point, deadly)
            save(run, 3, attempt="killed")
            os._exit(0)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert intact_step(run) in (2, 3)
        for entry in manifest.entries(run):  # half-removed is half-written, never a damaged checkpoint
            assert manifest.whole(entry) is not None or not entry.committed
        if process.exitcode == 0:
            assert intact_step(run) == 3
            assert at > 1
            return
    pytest.fail("never got through")


def test_a_kill_in_the_middle_of_an_upload(s3: str) -> None:
    """The object that was being sent does not appear, and the step before is found."""
    save(s3, 1, attempt="first")

    def child() -> None:
        client = client_of_s3()

        def half_sent(*_: Any, **__: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        client.meta.events.register("before-send.s3.PutObject", half_sent)
        save(s3, 2, attempt="killed")
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert intact_step(s3) == 1
