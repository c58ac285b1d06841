"""Loader processes: micro-batches of crops, in order, whatever the number of processes.

Every process cuts some samples of each micro-batch and writes them to their final place in a ring that all share; what
to cut stands there too, so an order is the number of a slot, and the rows to read ahead. No crop is pickled or joined,
and who cuts what cannot change a batch.
"""

from __future__ import annotations

import gc
import logging
import mmap
import multiprocessing
import os
import select
import signal
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icon_dist.data.crops import Bad, Crops
from icon_dist.errors import ClusterError, IconError, plain
from icon_dist.types import Batch

log = logging.getLogger(__name__)

AHEAD = 4  # micro-batches under way beside one for each process: enough to even out
HELD = 3  # micro-batches that the caller may hold without a copy
ASKED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}  # the parent answers
GRACE = 30  # seconds that a loader works on after SIGTERM
PATIENCE = 60.0  # seconds without an answer before a loader is named, again and again: slow storage can recover
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """One micro-batch to cut: all of it but the pixels, and how these are cut."""

    batch: Batch
    rows: I64  # [N] of the shard set; -1 = padding
    sampling: NDArray[np.float64]  # [N, 2, 3] input px -> stored px
    owner: I64  # [N] which process cuts it
    ahead: dict[int, I64]  # rows that a process should begin to read for later


class Ring:
    """Micro-batches in memory that processes share: ``slots`` times what is to be cut, and the crops."""

    def __init__(self, slots: int, size: int, input_hw: tuple[int, int]) -> None:
        self.crops = _mapped((slots, size, *input_hw, 3), np.uint8)
        self.rows = _mapped((slots, size), np.int64)
        self.owner = _mapped((slots, size), np.int64)
        self.sampling = _mapped((slots, size, 2, 3), np.float64)

    def order(self, slot: int, job: Job) -> None:
        """Write what is to be cut."""
        self.rows[slot], self.owner[slot], self.sampling[slot] = job.rows, job.owner, job.sampling

    def cut(self, slot: int, crops: Crops, owner: int) -> list[Bad]:
        """Write the crops of one process."""
        rows = self.rows[slot]
        places = np.flatnonzero((rows >= 0) & (self.owner[slot] == owner))
        return crops.fill(self.crops[slot], places=places, rows=rows[places], sampling=self.sampling[slot, places])


def _mapped(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer(mmap.mmap(-1, size), kind).reshape(shape)


UnderWay = tuple[Job, int]  # with its slot


class LoaderProcesses:
    """``processes`` forked loaders, started at once and kept over epochs; 0 = cut in this process."""

    def __init__(self, crops: Crops, *, processes: int, micro_batch: int, pin: bool) -> None:
        self._crops = crops
        self._micro_batch = micro_batch
        self._pin = pin
        self._workers: list[tuple[ForkProcess, Connection]] = []
        self._busy = False
        self.skipped: list[str] = []  # why people were left out of the batches so far, if ``crops`` tolerates that
        if not processes:
            return
        self._depth = processes + AHEAD  # micro-batches under way
        self._slots = self._depth + HELD
        self._free = deque(range(self._slots))
        self._ring = Ring(self._slots, micro_batch, crops.input_hw)
        self._reading: I64 = _mapped((processes,), np.int64)  # the row of each process
        self._reading[:] = -1
        # fork: the index is shared instead of copied and a start takes milliseconds; loaders use no torch, no CUDA.
        context = multiprocessing.get_context("fork")
        self._stop = weakref.finalize(self, _stop, self._workers, os.getpid())  # also if a signal ends what follows
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)  # until a child has handlers of its own
        for number in range(processes):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(there, crops, self._ring, self._reading, number, os.getpid()),
                name=f"loader-{number}",
                daemon=True,
            )
            self._workers.append((process, here))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking with threads
                process.start()
            there.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def close(self) -> None:
        """End the processes, if there are any; a second call does nothing."""
        if self._workers:
            self._stop()

    def run(self, jobs: Iterator[Job]) -> Iterator[Batch]:
        """The batches of the jobs in order, with their images, which are the caller's to keep."""
        if not self._workers:
            yield from self._run_here(jobs)
            return
        assert not self._busy, "one iteration at a time"
        self._busy = True
        under_way: deque[UnderWay] = deque()
        try:
            for job in jobs:
                if len(under_way) == self._depth:
                    yield self._receive(under_way)
                under_way.append((job, self._send(job)))
            while under_way:
                yield self._receive(under_way)
        finally:
            # an iteration that is left early leaves no answer in the pipes and nobody writing to the ring
            for _, slot in under_way:
                self._answers()
                self._free.append(slot)
            self._busy = False

    def _run_here(self, jobs: Iterator[Job]) -> Iterator[Batch]:
        for job in jobs:
            for rows in job.ahead.values():
                self._crops.reader.prefetch(self._crops.uncached(rows))
            image, places = self._empty(), np.flatnonzero(job.rows >= 0)
            rows, sampling = job.rows[places], job.sampling[places]
            bad = self._crops.fill(image.numpy(), places=places, rows=rows, sampling=sampling)
            yield self._finished(job, image, bad)

    def _finished(self, job: Job, image: Tensor, bad: list[Bad]) -> Batch:
        """The batch with its pixels; places that were not cut are black."""
        job.batch.image = image
        gone = job.rows < 0
        if bad:
            gone[[place for place, _ in bad]] = True
            self.skipped += [text for _, text in bad]
        if gone.any():
            job.batch.pad(torch.from_numpy(gone))
        return job.batch

    def _empty(self) -> Tensor:
        return torch.empty((self._micro_batch, *self._crops.input_hw, 3), dtype=torch.uint8, pin_memory=self._pin)

    def _send(self, job: Job) -> int:
        """The slot into which the processes now cut the job."""
        slot = self._free.popleft()
        self._ring.order(slot, job)
        for worker, (_, pipe) in enumerate(self._workers):
            try:
                pipe.send_bytes(np.append(slot, job.ahead.get(worker, ())).astype(np.int64).tobytes())
            except OSError:
                raise self._died(worker) from None
        return slot

    def _receive(self, under_way: deque[UnderWay]) -> Batch:
        held = self._slots - len(self._free) - len(under_way)
        job, slot = under_way.popleft()
        answers = self._answers()
        if errors := [answer for answer in answers if isinstance(answer, Exception)]:
            self._free.append(slot)
            raise errors[0]
        bad = [one for answer in answers if isinstance(answer, list) for one in answer]
        crops = self._ring.crops[slot]
        if self._pin or held >= HELD:
            image = self._empty()
            image.copy_(torch.from_numpy(crops))
            self._free.append(slot)
        else:
            # No copy: the slot is free again when the last tensor on it is gone (a fresh buffer costs ten times the
            # copy in page faults). A caller that holds more than HELD of them gets copies, above.
            image = torch.from_numpy(crops)
            weakref.finalize(crops, self._free.append, slot).atexit = False
        return self._finished(job, image, bad)

    def _answers(self) -> list[list[Bad] | Exception]:
        """What each process says of the oldest job under way."""
        return [self._answer(worker) for worker in range(len(self._workers))]

    def _answer(self, worker: int) -> list[Bad] | Exception:
        pipe, silent = self._workers[worker][1], 0.0
        ready = select.poll()  # not multiprocessing's wait, which costs ten times that
        ready.register(pipe.fileno(), select.POLLIN)
        while not ready.poll(PATIENCE * 1000):
            silent += PATIENCE
            self._name_silent(worker, silent)
        try:
            answer: list[Bad] | Exception = pipe.recv()
        except (EOFError, ConnectionError):
            answer = self._died(worker)
        return answer

    def _name_silent(self, worker: int, seconds: float) -> None:
        row = int(self._reading[worker])
        what = (
            f"the last that it began to read is {self._crops.reader.name(row)}" if row >= 0 else "it has read nothing"
        )
        pid = self._workers[worker][0].pid
        text = f"loader process {worker} (pid {pid}) has not answered for {seconds:g} s; {what}; still waiting"
        log.warning("%s", plain(text))

    def _died(self, worker: int) -> ClusterError:
        process = self._workers[worker][0]
        process.join(1)
        return ClusterError(
            f"loader process {worker} (pid {process.pid}) died with exit code {process.exitcode}; "
            "-9 is usually too little memory: lower data.loaders or data.cache_mb"
        )


def _stop(workers: list[tuple[ForkProcess, Connection]], owner: int) -> None:
    if os.getpid() != owner:  # a forked child must not stop its parent's loaders
        return
    started = [process for process, _ in workers if process.pid is not None]
    for process in started:
        process.kill()  # they hold nothing that needs an orderly end
    for process in started:
        process.join()
    for _, pipe in workers:
        pipe.close()
    workers.clear()


def _serve(pipe: Connection, crops: Crops, ring: Ring, reading: I64, owner: int, parent: int) -> None:
    """A loader process: orders in, crops into the ring, what was left out or the error out.

    ``reading [processes]`` is where the parent sees the row that each is at.
    """
    gc.disable()  # what the parent has on a GPU is not this process's to free
    crops.reading = reading[owner : owner + 1]
    # The parent's handlers came along with the fork. A terminal and a batch system signal the whole group: the step
    # under way still needs its crops, and then the parent stops its loaders.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: signal.alarm(GRACE))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
    cv2.setNumThreads(0)
    while True:
        # Later siblings hold this pipe open as well, so its end does not tell that the parent is gone.
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                return
        order = np.frombuffer(pipe.recv_bytes(), np.int64)
        answer: list[Bad] | Exception
        try:
            crops.reader.prefetch(crops.uncached(order[1:]))
            answer = ring.cut(int(order[0]), crops, owner)
        except IconError as error:
            answer = error
        except Exception:
            answer = RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
        pipe.send(answer)
