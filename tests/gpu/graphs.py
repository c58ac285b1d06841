"""The step as CUDA graphs: whether it is the loop's, and what it costs, compiled or not.

It comes last of all that runs in this process: where a step cannot be recorded, torch's allocator takes the recording
for one that never ends (2.11), and hardly anything works any more.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from icon_dist.training.cuda_graph import WARM, GraphedStep
from tests.gpu.correct import CURVE, different, furthest, small, weights, whole
from tests.gpu.setting import (
    STEPS,
    Learning,
    Row,
    Rows,
    Setting,
    background,
    config,
    crops,
    failed,
    fill_banks,
    within,
    without_deepspeed,
)
from tests.gpu.speed import MODES, Make, loop_step, modes_of, sizes_of, timed

STAGES = {  # contrast starts with the sixth step, the bank is used three steps later
    "loss__start_epoch": 5 / STEPS,
    "loss__ramp_epochs": 5 / STEPS,
    "loss__bank__warmup": 2,
    "optim__ema": 0.9,
}


def graphs(setting: Setting) -> Rows:
    try:
        yield from same(setting)
    except Exception as error:  # what is compiled may still run
        yield failed("graph, steps", error, ok=False)
    yield from costs(setting)


def same(setting: Setting) -> Rows:
    """Against the loop: before contrast starts, after, once the bank is in use; a NaN in it."""
    sides = [small(setting, setting.device, **STAGES) for _ in range(2)]
    sides[1].graphed = GraphedStep(sides[1].cfg, sides[1].learner, accumulation=1, device=setting.device)
    people = 2 if setting.tiny else 8
    for side in sides:
        for i in range(10 if setting.tiny else 14):
            side.step(crops(side.cfg, people, device=setting.device, seed=i))
    right, found = map(whole, sides)
    yield within("graph, weights", furthest(zip(*weights(found, right), strict=True)), CURVE)
    counts = [{name: t for name, t in one.items() if not t.is_floating_point()} for one in (found, right)]
    yield within("graph, counts that differ", different(*counts), 0)
    graphed = sides[1]
    batch = crops(graphed.cfg, people, device=setting.device, seed=14)
    graphed.step(replace(batch, joints=batch.joints * torch.nan))
    graphed.heed(wait=True)
    yield within("graph, NaN step, tensors that changed", different(whole(graphed), found), 0)
    yield Row("graph, NaN step, skipped", graphed.state.skipped, ok=graphed.state.skipped == 1)
    graphed.step(batch)
    yield within(
        "graph, the step after it, tensors that stayed", sum(map(torch.equal, *weights(found, whole(graphed)))), 0
    )


def costs(setting: Setting) -> Rows:
    """As in :mod:`tests.gpu.speed`; what is compiled comes last, because it may take the rest of the time."""
    people, *others = sizes_of(setting)
    alone = Learning(config(setting, **MODES["none"]), device=setting.device)
    yield timed(setting, f"N={people} graph", graph(alone, people), people)[0]
    for mode in modes_of(setting):
        learning = Learning(config(setting, **MODES[mode]), device=setting.device)
        fill_banks(learning.method)
        yield timed(setting, f"N={people} {mode} contrast graph", graph(learning, people), people)[0]
    for other in others:
        yield timed(setting, f"N={other} graph", graph(alone, other), other)[0]
    compiled(alone.model, setting)
    yield timed(setting, f"N={people} compile", loop_step(alone, people), people)[0]
    yield timed(setting, f"N={people} compile + graph", graph(alone, people), people)[0]


def graph(learning: Learning, people: int) -> Make:
    """A step as a graph (``run.graph``), recorded before it is timed; off CUDA the same calls one by one."""

    def make() -> Callable[[], object]:
        learning.model.zero_grad()  # of a step that failed
        batch = crops(learning.cfg, people, device=learning.device)
        learning.graphed = GraphedStep(learning.cfg, learning.learner, accumulation=1, device=learning.device)
        for _ in range(WARM + 1):
            learning.step(batch)
        return lambda: learning.step(batch)

    return make


def compiled(model: nn.Module, setting: Setting) -> None:
    """As the loop has it; a rehearsal makes sure that it is one graph, which is all that may be seen of it on a CPU."""
    model.compile(backend="eager" if setting.tiny else "inductor", dynamic=False, fullgraph=setting.tiny)


def start_compiling(setting: Setting) -> subprocess.Popen[bytes]:
    """What it finds is kept in a folder (TORCHINDUCTOR_CACHE_DIR), from where :func:`costs` has it minutes later."""
    words = ["tests.gpu.graphs", "--device", setting.device, *(["--tiny"] if setting.tiny else [])]
    return background(*words, log=setting.out / "compile.log")


def compile_ahead(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(argv)
    nowhere = Path()
    setting = Setting(args.device, args.tiny, nowhere, nowhere, nowhere, math.inf)
    without_deepspeed()
    learning = Learning(config(setting, **MODES["none"]), device=setting.device)
    compiled(learning.model, setting)
    began = time.perf_counter()
    loop_step(learning, sizes_of(setting)[0])()()
    setting.finish()
    print(f"compiled and ran one step in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    compile_ahead(sys.argv[1:])
