"""A loader that does not answer is named with what it reads, and waited for: slow storage recovers."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from icon_dist.data import loader_processes
from icon_dist.data.stream import EvalStream
from icon_dist.errors import DataError
from icon_dist.shards.reader import ShardReader
from icon_dist.shards.shard_set import ShardSet, open_shards
from tests.support.streams import eval_stream, loader_workers


def stream_of(shards: ShardSet, *, processes: int) -> EvalStream:
    return eval_stream(shards, rank=0, world=1, batch=3, input_hw=(64, 48), loaders=processes)


def images(stream: EvalStream) -> list[torch.Tensor]:
    return [batch.image.clone() for batch in stream]


@contextmanager
def stopped(pid: int, until: list[logging.LogRecord]) -> Iterator[None]:
    """The process hangs until there are two warnings."""
    os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        while len(until) < 2:
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    thread.join()


def test_a_stuck_loader_is_named_and_goes_on(
    made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loader_processes, "PATIENCE", 0.1)
    shards = open_shards(str(made))
    expected = images(stream_of(shards, processes=0))
    with closing(stream_of(shards, processes=1)) as stream:
        (loader,) = loader_workers()
        pid = loader.pid
        assert pid is not None
        for said in ("it has read nothing", f"the last that it began to read is {ShardReader(shards).name(8)}"):
            with stopped(pid, caplog.records):
                found = images(stream)
            assert all(map(torch.equal, found, expected))
            texts = [record.message for record in caplog.records]
            assert texts[0] == f"loader process 0 (pid {pid}) has not answered for 0.1 s; {said}; still waiting"
            assert texts[1] == f"loader process 0 (pid {pid}) has not answered for 0.2 s; {said}; still waiting"
            caplog.clear()


def test_a_pipe_in_place_of_a_shard_is_no_reason_to_hang(copy: Path) -> None:
    shards = open_shards(str(copy))
    (copy / "shard-00001.tar").unlink()
    os.mkfifo(copy / "shard-00001.tar")
    with pytest.raises(DataError, match=r"shard-00001\.tar key=\w+: .*; copy the shards"):
        images(stream_of(shards, processes=1))
