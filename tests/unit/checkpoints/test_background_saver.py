"""Checkpoints are committed beside the loop, and an outage of the storage loses none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from icon_dist import storage
from icon_dist.checkpoints import checkpoint
from icon_dist.checkpoints.background_saver import Saver, send_unsent, unsent_folder
from icon_dist.errors import CheckpointError, DivergedError, StorageError


def save(saver: Saver, step: int, *, value: float = 1.0) -> None:
    tensors = {name: {"x": torch.full((8,), value * step)} for name in ("model", "optimizer", "bank")}
    saver.save(step=step, tensors=tensors, state={}, manifest={}, files={f"samples/{step}": b"ids"})


def steps(run: str) -> list[int]:
    found = checkpoint.find(run, warn=pytest.fail, missing_ok=True)
    return [] if found is None else [found.step]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is set, S3 takes nothing."""
    down = threading.Event()
    for name in ("write", "write_new"):
        call = getattr(storage, name)

        def out_of_reach(uri: str, data: Any, call: Any = call) -> Any:
            if down.is_set() and storage.is_remote(uri):
                raise StorageError(f"{uri}: S3 failed with 503, retried for 60 s; try again later")
            return call(uri, data)

        monkeypatch.setattr(storage, name, out_of_reach)
    return down


def test_the_loop_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, write = threading.Event(), threading.Event(), storage.write

    def slow(uri: str, data: Any) -> None:
        assert (second if "step-00000002" in uri else first).wait(60)
        write(uri, data)

    monkeypatch.setattr(storage, "write", slow)
    with Saver(str(tmp_path / "run"), keep=2, warn=pytest.fail) as saver:
        save(saver, 1)
        saver.check()
        assert steps(str(tmp_path / "run")) == []
        threading.Timer(0.2, first.set).start()
        save(saver, 2)  # waits for the one before
        assert steps(str(tmp_path / "run")) == [1]
        second.set()
    assert steps(str(tmp_path / "run")) == [2]
    assert (tmp_path / "run" / "samples" / "2").read_bytes() == b"ids"


def test_what_goes_wrong_beside_the_loop_ends_the_run(tmp_path: Path) -> None:
    saver = Saver(str(tmp_path / "run"), keep=2, warn=pytest.fail)
    save(saver, 1)
    saver.wait()
    save(saver, 2, value=float("nan"))
    with pytest.raises(DivergedError, match="step 2: the weights are not finite"):
        saver.wait()
    assert steps(str(tmp_path / "run")) == [1], "nothing broken is saved"


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(StorageError), Saver(str(tmp_path / "run"), keep=2, warn=pytest.fail) as saver:
        save(saver, 1)


def test_an_outage_keeps_the_checkpoint_here_and_says_so(s3: str, outage: threading.Event) -> None:
    said: list[str] = []
    saver = Saver(s3, keep=2, warn=said.append)
    save(saver, 1)
    saver.wait()
    outage.set()
    save(saver, 2)
    saver.wait()
    with pytest.raises(StorageError) as left, saver:
        save(saver, 3)
    assert steps(s3) == [1]
    (kept,) = map(str, Path(unsent_folder(s3)).iterdir())
    assert steps(kept) == [3]
    assert said[0].startswith(f"warning: step 2 is not in {s3} but in {kept}/checkpoints/step-00000002")
    assert str(left.value).startswith(f"step 3 is not in {s3} but in {kept}/checkpoints/step-00000003")
    assert "the same command on this machine sends it" in str(left.value)

    outage.clear()
    told: list[str] = []
    send_unsent(s3, warn=told.append)
    assert steps(s3) == [3]
    assert storage.read(f"{s3}/samples/3") == b"ids"
    assert not Path(unsent_folder(s3)).exists()
    assert len(told) == 1
    assert "sent" in told[0]


def test_the_next_checkpoint_that_arrives_makes_up_for_it(s3: str, outage: threading.Event) -> None:
    said: list[str] = []
    with Saver(s3, keep=2, warn=said.append) as saver:
        outage.set()
        save(saver, 1)
        saver.wait()
        outage.clear()
        save(saver, 2)
    assert steps(s3) == [2]
    assert storage.listing(f"{s3}/samples") == ["1", "2"], "those of the checkpoint that was never sent as well"
    assert storage.listing(unsent_folder(s3)) == []
    assert len(said) == 1


def only_folder(s3: str) -> Path:
    (found,) = Path(unsent_folder(s3)).iterdir()
    return found


@pytest.mark.parametrize("again", [False, True])
def test_what_is_left_of_a_run_that_was_removed_is_kept_and_not_sent(
    again: bool, s3: str, outage: threading.Event
) -> None:
    """Not even to a run of the same name, begun on another machine before this one looks."""
    saver = Saver(s3, keep=2, warn=lambda _: None)
    outage.set()
    save(saver, 5)
    saver.wait()
    outage.clear()
    identity = storage.read(f"{s3}/run.id")
    storage.delete(s3, tree=True)
    if again:
        with Saver(s3, keep=2, warn=pytest.fail) as other:
            save(other, 1)
    for _ in range(2):  # whenever the run starts
        told: list[str] = []
        send_unsent(s3, warn=told.append)
        assert steps(s3) == [1] * again
        assert steps(str(only_folder(s3))) == [5]
        assert len(told) == 1
        assert told[0].startswith(f"{only_folder(s3)}: unsent checkpoints of another run than {s3} is now; kept")

    storage.write(f"{s3}/run.id", identity)  # the run comes back to its place
    send_unsent(s3, warn=told.append)
    assert steps(s3) == [5]
    assert not Path(unsent_folder(s3)).exists()


def test_what_was_overtaken_is_put_aside(
    s3: str, tmp_path: Path, outage: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run went on from an older checkpoint on another machine: its steps are not to be recorded twice."""
    saver = Saver(s3, keep=2, warn=lambda _: None)
    outage.set()
    save(saver, 4)
    saver.wait()
    outage.clear()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        with Saver(s3, keep=2, warn=pytest.fail) as other:
            save(other, 5)
    told: list[str] = []
    send_unsent(s3, warn=told.append)
    assert steps(s3) == [5]
    assert storage.listing(f"{s3}/samples") == ["5"]
    assert len(told) == 1
    assert "older than those of" in told[0]
    assert f"kept in {only_folder(s3)}" in told[0]
    assert steps(str(only_folder(s3))) == [4]
    outage.set()
    save(saver, 6)
    saver.wait()
    outage.clear()
    send_unsent(s3, warn=told.append)
    assert steps(s3) == [6]
    assert steps(str(only_folder(s3))) == [4], "what is aside stays aside"
    assert len(told) == 2, "and is told of once"


def test_what_is_damaged_here_is_put_aside(s3: str, outage: threading.Event) -> None:
    saver = Saver(s3, keep=2, warn=lambda _: None)
    outage.set()
    save(saver, 4)
    saver.wait()
    outage.clear()
    (weights,) = only_folder(s3).rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"damaged, and {s3} has no other checkpoint"):
        send_unsent(s3, warn=pytest.fail)
    checkpoint.save(s3, step=3, attempt="a", tensors={}, state={}, manifest={}, keep=1)
    told: list[str] = []
    send_unsent(s3, warn=told.append)
    assert steps(s3) == [3]
    assert len(told) == 1
    assert "damaged" in told[0]
    assert f"kept in {only_folder(s3)}" in told[0]


def test_the_best_of_an_outage_is_kept_when_it_ends(s3: str, outage: threading.Event) -> None:
    with Saver(s3, keep=1, warn=lambda _: None) as saver:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.6), (4, 0.7)):
            outage.set() if step in (2, 3) else outage.clear()
            tensors = {name: {"x": torch.full((8,), 1.0 * step)} for name in ("model", "optimizer")}
            saver.save(step=step, tensors=tensors, state={}, manifest={"score": score})
            saver.wait()
    best = checkpoint.find(s3, which="best", warn=pytest.fail)
    assert best is not None
    assert best.step == 2
    assert steps(s3) == [4]
    assert storage.listing(unsent_folder(s3)) == []


def test_a_checkpoint_that_can_be_kept_nowhere_names_both_places(s3: str, cache: Path, outage: threading.Event) -> None:
    saver = Saver(s3, keep=1, warn=pytest.fail)
    cache.write_text("in the way")
    outage.set()
    save(saver, 1)
    with pytest.raises(
        StorageError, match=r"step 1 is lost: s3://.*503.*; nor can it be kept on this machine: .*cache"
    ):
        saver.wait()


def test_a_run_keeps_its_identity(s3: str, tmp_path: Path, outage: threading.Event) -> None:
    """Attempt by attempt: what the first could not send is sent by the second, though the third one asks."""
    Saver(s3, keep=2, warn=lambda _: None)
    saver = Saver(s3, keep=2, warn=lambda _: None)
    outage.set()
    save(saver, 4)
    saver.wait()
    outage.clear()
    Saver(s3, keep=2, warn=lambda _: None)
    send_unsent(s3, warn=lambda _: None)
    assert steps(s3) == [4]
    Saver(str(tmp_path / "run"), keep=2, warn=pytest.fail)
    assert not (tmp_path / "run").exists(), "a run on this machine needs none"
