"""What a step costs, one launch at a time: resident crops, arrangement by arrangement; contrast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch does not list it

from icon_dist.losses import block_sparse
from icon_dist.training.engine_plain import PlainEngine
from icon_dist.training.precision import use_precision
from tests.gpu.setting import Learning, Row, Rows, Setting, config, crops, failed, fill_banks

MODES = {  # of contrast
    "none": {"loss__lambda_p": 0},
    "default": {},
    "caps": {"loss__max_queries": 256, "loss__max_negatives": 512},  # the paper's
    "bf16": {"loss__products": "bf16"},
}


class Arrangement(NamedTuple):
    """How a step is laid out."""

    name: str
    channels_last: bool = True
    fused: bool = True


# All with cuDNN's search. Its plans are kept by shape alone: a step without would leave its own to all that follow.
ARRANGEMENTS = (
    Arrangement("NCHW, foreach Adam", channels_last=False, fused=False),
    Arrangement("+ channels_last", fused=False),
    Arrangement("+ fused Adam"),  # as the loop has it
)
Make = Callable[[], Callable[[], object]]  # a step, made when it is timed: making it may fail


def sizes_of(setting: Setting) -> tuple[int, ...]:
    """People of a step; the first is measured in every way."""
    return (2,) if setting.tiny else (64, 16, 256)


def modes_of(setting: Setting) -> tuple[str, ...]:
    """With contrast; on a CPU the others are other numbers only."""
    return ("default",) if setting.tiny else ("default", "bf16", "caps")


def speed(setting: Setting) -> Rows:
    sizes, base = sizes_of(setting), dict[int, float]()
    alone = Learning(config(setting, **MODES["none"]), device=setting.device)
    for arrangement in ARRANGEMENTS:
        arrange(alone, arrangement, setting)
        for people in sizes:
            row, base[people] = timed(setting, f"N={people} {arrangement.name}", loop_step(alone, people), people)
            yield row
    yield launches(setting, f"N={sizes[0]} launches", loop_step(alone, sizes[0]))
    for mode in modes_of(setting):
        yield from with_contrast(setting, mode, base)


def with_contrast(setting: Setting, mode: str, base: dict[int, float]) -> Rows:
    """``base``: milliseconds of a step without, by its people."""
    learning = Learning(config(setting, **MODES[mode]), device=setting.device)
    fill_banks(learning.method)
    for people in base:
        row, ms = timed(setting, f"N={people} {mode} contrast", loop_step(learning, people), people)
        yield row
        if not math.isnan(ms / base[people]):
            yield Row(f"N={people} {mode} contrast costs", 100 * (ms / base[people] - 1), "%", note="with its head")
    people = sizes_of(setting)[0]
    yield timed(setting, f"N={people} {mode} contrast alone", contrast_alone(learning, people), 0)[0]
    if mode == "default":
        yield from other_ways(learning, people, setting)
    yield launches(setting, f"N={people} {mode} contrast launches", loop_step(learning, people))


def other_ways(learning: Learning, people: int, setting: Setting) -> Rows:
    """The loss with its pairs in other blocks, and with all products in fp32."""
    rows = block_sparse.BLOCK
    for block_sparse.BLOCK in (rows // 2, 2 * rows):
        name = f"N={people} contrast alone, blocks of {block_sparse.BLOCK}"
        yield timed(setting, name, contrast_alone(learning, people), 0)[0]
    block_sparse.BLOCK = rows
    use_precision("fp32")
    yield timed(setting, f"N={people} contrast alone, fp32 products", contrast_alone(learning, people), 0)[0]
    use_precision(learning.cfg.run.precision)


def arrange(learning: Learning, arrangement: Arrangement, setting: Setting) -> None:
    """The same network with other strides, another Adam."""
    parameters = list(learning.model.parameters())
    adam = torch.optim.Adam(
        parameters,
        fused=arrangement.fused and setting.cuda,
        foreach=not arrangement.fused,
    )
    learning.engine = PlainEngine(learning.model, adam, accumulation=1, bf16=setting.cuda)
    layout = torch.channels_last if arrangement.channels_last else torch.contiguous_format
    for parameter in parameters:
        parameter.grad = None
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    learning.state.complete(learning.engine, bank=learning.method, ema=None)


def loop_step(learning: Learning, people: int) -> Make:
    """A step of the training loop, one launch at a time."""

    def make() -> Callable[[], object]:
        learning.graphed = None
        learning.model.zero_grad()  # of a step that failed
        batch = crops(learning.cfg, people, device=learning.device)
        return lambda: learning.step(batch)

    return make


def contrast_alone(learning: Learning, people: int) -> Make:
    """The loss of given outputs and its gradients: no network, the heatmaps' error beside contrast."""

    def make() -> Callable[[], object]:
        batch = crops(learning.cfg, people, device=learning.device)
        with torch.no_grad():
            outputs = learning.engine(batch.image)
        embedding = outputs.embedding = outputs.embedding.detach().requires_grad_()

        def one() -> None:
            embedding.grad = None
            learning.method(lambda *_: outputs, batch, step=0, epoch=0.0, diagnose=False).total.backward()
            learning.method.commit()

        return one

    return make


def timed(setting: Setting, name: str, make: Make, people: int) -> tuple[Row, float]:
    """Images a second, or for nobody the milliseconds, which come again for the caller. What cannot run says why."""
    if setting.left < 2:
        return Row(name, "left out", note="no time"), math.nan
    if setting.cuda:
        with suppress(RuntimeError):  # after a recording that failed
            torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        began = time.perf_counter()
        one = make()
        one()
        setting.finish()
        first = time.perf_counter() - began
        ms = setting.milliseconds(one, most=max(5, min(30, 2000 // max(1, people))))
    except Exception as error:  # too large, or not to be captured: the next one is still of interest
        return failed(name, error), math.nan
    peak = torch.cuda.max_memory_allocated() / 2**30 if setting.cuda else 0.0
    note = f"{ms:.2f} ms, {peak:.1f} GiB, first {first:.1f} s"
    return (Row(name, 1e3 * people / ms, "img/s", note=note) if people else Row(name, ms, "ms", note=note)), ms


def launches(setting: Setting, name: str, make: Make) -> Row:
    """Kernels of a step; off CUDA, calls of operators."""
    activity = torch.profiler.ProfilerActivity
    try:
        one = make()
        one()
        setting.finish()
        kinds = [activity.CPU, activity.CUDA] if setting.cuda else [activity.CPU]
        with torch.profiler.profile(activities=kinds) as found:
            one()
            setting.finish()
    except Exception as error:  # a machine may refuse to be profiled
        return failed(name, error)
    kind = DeviceType.CUDA if setting.cuda else DeviceType.CPU
    return Row(name, sum(event.device_type == kind for event in found.events()))
