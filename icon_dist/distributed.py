"""The only torch.distributed import; every function is the identity at one process.

Each function that takes part in a collective must be called by all ranks, in the same order, with equal shapes.
The launcher makes and ends the process group. The all-gather of embeddings is in ``losses/exchange.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from icon_dist.errors import ClusterError, IconError, shorten
from icon_dist.tensors.torch_compat import all_gather_single, foreach_copy_, reduce_scatter_single

T = TypeVar("T")


def rank() -> int:
    """The number of this process from 0; 0 without a process group."""
    return dist.get_rank() if _initialized() else 0


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if _initialized() else 1


def start_gather(x: Shaped[Tensor, "n ..."]) -> Callable[[], Shaped[Tensor, "rows ..."]]:
    """Begin to gather the rows of all ranks in rank-major order; the call that fetches them waits for their arrival.

    Without a gradient. Fetching is no collective, but must happen: until then, what travels is kept alive.
    """
    if world_size() == 1:
        return lambda: x
    rows = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
    sent = x.contiguous()
    work = all_gather_single(rows, sent, async_op=True)

    def fetch() -> Tensor:
        work.wait()
        return rows

    return fetch


def return_gradient(rows: Shaped[Tensor, "rows ..."], *, to: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "rows ..."]:
    """``rows`` of all ranks; their gradient goes, summed over ranks, to the rows that this rank contributed."""
    returned: Tensor = _ReturnGradient.apply(rows, to)  # type: ignore[no-untyped-call]
    return returned


@torch.no_grad()
def sum_over_ranks(x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """Elementwise sum, without a gradient; ``x`` itself is left alone."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


@torch.no_grad()
def mean_over_ranks(x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """Elementwise mean, without a gradient."""
    return sum_over_ranks(x) / world_size()


@torch.no_grad()
def mean_buffers(module: nn.Module, *, raised: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Average the floating buffers (BatchNorm's running statistics) over ranks, in place.

    Small numbers that ranks want to tell each other travel in the same all-reduce: returns the mean of ``raised``.

    Every rank leaves with the same bits, so that a checkpoint written by rank 0 speaks for all. Integer buffers are
    counters that already agree. In fp64, where the mean of equal fp32 numbers is that number: constants among the
    buffers are not saved, and must not drift.
    """
    buffers = [b for b in module.buffers() if b.is_floating_point()]
    if world_size() == 1:
        return raised
    flat = mean_over_ranks(torch.cat([b.flatten() for b in (*buffers, raised)]).double())
    *means, agreed = torch.split(flat, [b.numel() for b in (*buffers, raised)])
    if buffers:
        foreach_copy_(buffers, [mean.view_as(b) for mean, b in zip(means, buffers, strict=True)])  # one launch
    return agreed


@torch.no_grad()
def average_in_place(tensors: list[Tensor]) -> None:
    """Each tensor becomes its elementwise mean over ranks, in one flat message; all have one type and no gaps."""
    if world_size() == 1:
        return
    flat = tensors[0].new_empty(sum(t.numel() for t in tensors))
    starts = accumulate((t.numel() for t in tensors), initial=0)
    # as each lies in memory, channels_last or not: else every tensor would be turned by a launch of its own
    parts = [flat.as_strided(t.shape, t.stride(), at) for t, at in zip(tensors, starts, strict=False)]
    foreach_copy_(parts, tensors)
    dist.all_reduce(flat)
    flat.mul_(1 / world_size())
    foreach_copy_(tensors, parts)


@torch.no_grad()
def copy_from_first(tensors: list[Tensor]) -> None:
    """Each tensor becomes that of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather_objects(item: T) -> list[T]:
    """Every rank's picklable ``item``, in rank order, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def from_first(read: Callable[[], T]) -> T:
    """What ``read`` returns on rank 0, on every rank: a file that all need is asked for once, however many they are.

    What goes wrong there for the user is raised everywhere.
    """
    if world_size() == 1:
        return read()
    answer: list[Any] = [*_attempt(read)] if rank() == 0 else [None, None]
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    result: T = answer[0]
    return result


def from_first_of_host(read: Callable[[], T], *, host: object) -> T:
    """What ``read`` returns on the first rank of each host, on every rank of that host.

    ``host`` tells it from others. What goes wrong anywhere for the user is raised everywhere.
    """
    if world_size() == 1:
        return read()
    hosts = gather_objects(host)
    first = hosts.index(host)
    answers = gather_objects(_attempt(read) if first == rank() else (None, None))
    for _, wrong in answers:
        if wrong is not None:
            raise wrong
    result: Any = answers[first][0]
    return cast(T, result)


def _attempt(read: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What ``read`` returns, or what goes wrong there for the user."""
    try:
        return read(), None
    except (IconError, OSError) as error:
        return None, error


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


class _ReturnGradient(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, rows: Tensor, to: Tensor) -> Tensor:
        """``rows`` as they are."""
        del to
        return rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(_: Any, grad: Tensor) -> tuple[None, Tensor]:
        """The gradient of ``to``: summed over ranks, the rows of this rank."""
        if world_size() == 1:
            return None, grad
        grad = grad.contiguous()
        own = grad.shape[0] // world_size()
        if dist.get_backend() == "nccl":
            own_part = grad.new_empty(own, *grad.shape[1:])
            reduce_scatter_single(own_part, grad)
            return None, own_part
        total = grad.clone()  # autograd may hand the same tensor to somebody else
        dist.all_reduce(total)
        return None, total[rank() * own : (rank() + 1) * own]


def init_alone(backend: str) -> None:
    """A process group of one, without a network port: DeepSpeed wants a group, a single process has none."""
    try:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    except RuntimeError as error:
        first = str(error).splitlines()[0].rpartition("nullptr. ")[2]  # gloo names its source lines before it
        fix = "bring its loopback interface up (ip link set lo up), and see that its name resolves"
        raise ClusterError(f"{backend}: this machine cannot reach itself ({shorten(first, 200)}); {fix}") from None


def shut_down() -> None:
    """End the process group. Raises where there is none."""
    dist.destroy_process_group()
