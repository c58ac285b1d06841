"""DeepSpeed's engine beside the plain one: the same bits at one worker, and state that goes from one to the other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from icon_dist.launch.local import group_of_one
from icon_dist.training.engine_deepspeed import DeepSpeedEngine
from icon_dist.training.engine_plain import PlainEngine
from tests.support.engines import LR, Net, adam_of, assert_same_bits, plain, run
from tests.support.on_ranks import on_ranks

with_deepspeed = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture
def alone() -> None:
    group_of_one("gloo")


def deepspeed(
    net: nn.Module, *, zero: int, bf16: bool = False, optimizer: torch.optim.Adam | None = None
) -> DeepSpeedEngine:
    optimizer = optimizer or torch.optim.Adam(net.parameters(), lr=1.0)
    return DeepSpeedEngine(net, optimizer, zero=zero, micro_batch=4, accumulation=2, world=1, bf16=bf16)


@pytest.mark.usefixtures("alone")
@with_deepspeed
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_deepspeed_alone_has_the_same_bits(zero: int, bf16: bool) -> None:
    """In bf16 too: its autocast is torch's, and gradients stay fp32."""
    ours, theirs = plain(Net(), bf16=bf16), deepspeed(Net(), zero=zero, bf16=bf16)
    for step in range(len(LR)):
        run(ours, range(step, step + 1))
        run(theirs, range(step, step + 1))
        assert_same_bits(ours, theirs)


@pytest.mark.usefixtures("alone")
@with_deepspeed
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_learning_rates_by_layer_and_weight_decay(zero: int) -> None:
    """The same bits as the plain engine, and a state that goes from one to the other."""
    ours, net = Net(), Net()
    plainly = PlainEngine(ours, adam_of(ours), accumulation=2, bf16=False)
    theirs = deepspeed(net, zero=zero, optimizer=adam_of(net))
    run(plainly, range(2))
    run(theirs, range(2))
    assert_same_bits(plainly, theirs)
    later = Net()
    later.load_state_dict(plainly.weights())
    resumed = deepspeed(later, zero=zero, optimizer=adam_of(later))
    resumed.load_optimizer_state(plainly.optimizer_state())
    run(plainly, range(2, 4))
    run(resumed, range(2, 4))
    assert_same_bits(plainly, resumed)


def beside_a_gpu() -> tuple[set[str], bool]:
    torch.cuda.is_available = lambda: True
    engine = deepspeed(Net(), zero=1)
    run(engine, range(1))
    return {p.device.type for p in engine.module.parameters()}, "functorch.compile" in sys.modules


def test_a_model_on_the_cpu_stays_there_beside_a_gpu_and_loads_no_compiler(tmp_path: Path) -> None:
    """DeepSpeed takes a GPU wherever torch sees one; with run.gpus_per_worker=0 it must not. Its Muon, which every
    engine imports, would load what compiles: a second of every start."""
    assert on_ranks(beside_a_gpu, world=1, folder=tmp_path) == [({"cpu"}, False)]


@pytest.mark.usefixtures("alone")
@with_deepspeed
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_state_goes_from_one_kind_to_the_other_and_back(zero: int) -> None:
    straight, first = plain(Net()), plain(Net())
    run(straight, range(4))
    run(first, range(1))
    net = Net()
    net.load_state_dict(first.weights())
    second = deepspeed(net, zero=zero)
    second.load_optimizer_state(first.optimizer_state())
    assert_same_bits(first, second)
    run(second, range(1, 3))
    third = plain(Net())
    third.module.load_state_dict(second.weights())
    third.load_optimizer_state(second.optimizer_state())
    run(third, range(3, 4))
    assert_same_bits(straight, third)
