"""Batches on their way to a GPU: a thread asks for the next ones, and copies them beside the steps that run.

A batch travels as one block of pinned memory, in one copy on a stream of its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from icon_dist.types import Batch

AHEAD = 2  # batches
ALIGN = 64  # bytes: where a tensor may begin
Item = tuple[Batch | BaseException | None, Any]  # a batch or why there is none, and the event of its arrival


def feed(batches: Iterator[Batch], *, device: str) -> Generator[Batch]:
    """The same batches on ``device``, in order, up to :data:`AHEAD` of them before they are asked for.

    ``batches`` runs in the thread, and is closed there when this iterator is. What it raises is raised here.
    """
    stream = None if device == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ready: queue.Queue[Item] = queue.Queue(maxsize=AHEAD)
    left = threading.Event()
    words = (batches, ready, left.is_set, device, stream)
    thread = threading.Thread(target=_work, args=words, name="feeder", daemon=True)
    thread.start()
    try:
        while True:
            item, event = ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if event is not None:
                current = torch.cuda.current_stream()
                current.wait_event(event)
                for tensor in vars(item).values():
                    tensor.record_stream(current)  # its memory is not given away before the steps that read it
            yield item
    finally:
        left.set()
        while thread.is_alive():
            while not ready.empty():
                ready.get_nowait()  # it may wait to put one
            thread.join(0.01)


def _work(
    batches: Iterator[Batch], ready: queue.Queue[Item], left: Callable[[], bool], device: str, stream: Any
) -> None:
    """The thread: one batch after the other, until there is none or nobody wants more."""
    end: Item = None, None
    try:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            while not left() and (batch := next(batches, None)) is not None:
                moved = unpack(pack(batch, pin=stream is not None).to(device, non_blocking=True), batch)
                ready.put((moved, None if stream is None else stream.record_event()))
            if left() and hasattr(batches, "close"):
                batches.close()
    except BaseException as error:  # a stop or a bad image: the loop's to handle
        end = error, None
    ready.put(end)


def pack(batch: Batch, *, pin: bool) -> Tensor:
    """Its tensors of the host one after the other as bytes."""
    layout, size = _layout(batch)
    block = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
    for name, (start, stop) in layout.items():
        tensor: Tensor = getattr(batch, name)
        block[start:stop].copy_(tensor.contiguous().view(-1).view(torch.uint8))
    return block


def unpack(block: Tensor, like: Batch) -> Batch:
    """The batch of a block of :func:`pack`, as views of it; what ``like`` has elsewhere already stays there."""
    layout, _ = _layout(like)
    views = {
        name: block[start:stop].view(getattr(like, name).dtype).view(getattr(like, name).shape)
        for name, (start, stop) in layout.items()
    }
    return Batch(**vars(like) | views)


def _layout(batch: Batch) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each tensor of the host begins and ends, bytes; and how many there are."""
    places, at = {}, 0
    for field in fields(batch):
        tensor: Tensor = getattr(batch, field.name)
        if tensor.device.type == "cpu":
            places[field.name] = at, at + tensor.nbytes
            at += -(-tensor.nbytes // ALIGN) * ALIGN
    return places, at
