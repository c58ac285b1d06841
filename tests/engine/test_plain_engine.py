"""The engine without DeepSpeed: Adam as the paper of Adam writes it, and DeepSpeed's own bits at one worker."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from icon_dist.launch.local import group_of_one
from icon_dist.training.engine import Engine
from icon_dist.training.engine_deepspeed import DeepSpeedEngine
from icon_dist.training.engine_plain import PlainEngine, lay_channels_last
from icon_dist.types import Outputs

LR = (1e-2, 1e-2, 3e-3, 1e-4)  # a schedule: the engine takes what each step is given


class Net(nn.Module):
    """Parameters whose sizes no world divides, and buffers."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, image: Tensor) -> Outputs:
        return Outputs(self.head(self.norm(self.conv(image)).relu()))


def micro_batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 3, 6, 5), (4, 2, 6, 5))
    return [tuple(torch.randn(s, generator=generator, dtype=dtype) for s in shapes) for _ in range(count)]  # type: ignore[misc]


def loss_of(out: Outputs, target: Tensor) -> Tensor:
    return (out.heatmaps - target).square().mean()


def plain(net: nn.Module, *, accumulation: int = 2, bf16: bool = False) -> PlainEngine:
    return PlainEngine(net, torch.optim.Adam(net.parameters(), lr=1.0), accumulation=accumulation, bf16=bf16)


def run(engine: Engine, steps: range, *, accumulation: int = 2) -> None:
    batches = micro_batches(accumulation * len(LR))
    for step in steps:
        for image, target in batches[step * accumulation : (step + 1) * accumulation]:
            engine.backward(loss_of(engine(image), target))
            engine.step(lr=LR[step])


def assert_same_bits(a: Engine, b: Engine) -> None:
    for one, other in ((a.weights(), b.weights()), (a.optimizer_state(), b.optimizer_state())):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture
def alone() -> None:
    group_of_one("gloo")


# ------------------------------------------------------------------------------------------------------------ plain


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_is_adam_on_the_joined_batch(accumulation: int) -> None:
    """Kingma & Ba, algorithm 1, on all micro-batches at once; in double precision."""
    net, naive = Net(norm=False).double(), Net(norm=False).double()
    engine = plain(net, accumulation=accumulation)
    batches = micro_batches(accumulation * len(LR), torch.float64)
    parameters = dict(naive.named_parameters())
    m = {name: torch.zeros_like(p) for name, p in parameters.items()}
    v = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for t, lr in enumerate(LR, start=1):
        mine = batches[(t - 1) * accumulation : t * accumulation]
        for image, target in mine:
            engine.backward(loss_of(engine(image), target))
            engine.step(lr=lr)
        joined = loss_of(naive(torch.cat([image for image, _ in mine])), torch.cat([target for _, target in mine]))
        gradients = torch.autograd.grad(joined, list(parameters.values()))
        with torch.no_grad():
            for (name, p), g in zip(parameters.items(), gradients, strict=True):
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g * g
                p.sub_(lr * (m[name] / (1 - 0.9**t)) / ((v[name] / (1 - 0.999**t)).sqrt() + 1e-8))
    state = engine.optimizer_state()
    assert state["step"] == len(LR)
    for name, p in parameters.items():
        torch.testing.assert_close(engine.weights()[name], p.detach(), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(state[f"exp_avg.{name}"], m[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(state[f"exp_avg_sq.{name}"], v[name], rtol=1e-9, atol=1e-12)


def test_parameters_move_at_the_last_micro_batch_only() -> None:
    engine = plain(Net(), accumulation=3)
    before = engine.weights()
    moved = []
    for image, target in micro_batches(6):
        engine.backward(loss_of(engine(image), target))
        engine.step(lr=0.1)
        moved.append(not torch.equal(engine.weights()["head.weight"], before["head.weight"]))
        before = engine.weights()
    assert moved == [False, False, True, False, False, True]


def test_weights_are_a_copy() -> None:
    engine = plain(Net())
    weights = engine.weights()
    run(engine, range(1))
    assert not torch.equal(weights["conv.weight"], engine.weights()["conv.weight"])
    assert set(weights) == set(engine.module.state_dict())


def test_bf16_is_an_autocast() -> None:
    """Products in bf16; parameters, their gradients and what BatchNorm counts stay fp32."""
    net = Net()
    engine = plain(net, bf16=True)
    (image, target), *_ = micro_batches(1)
    out = engine(image)
    assert out.heatmaps.dtype == torch.bfloat16
    engine.backward(loss_of(out, target))
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}
    assert {t.dtype for t in engine.weights().values()} == {torch.float32, torch.int64}


def test_state_goes_on_in_another_engine() -> None:
    straight, first = plain(Net()), plain(Net())
    run(straight, range(4))
    run(first, range(2))
    second = plain(Net())
    second.module.load_state_dict(first.weights())
    second.load_optimizer_state(first.optimizer_state())
    run(second, range(2, 4))
    assert_same_bits(straight, second)


def test_fused_adam_goes_on_where_it_was() -> None:
    """As on a GPU, where its count of steps is a tensor beside the moments."""

    def fused(net: nn.Module) -> PlainEngine:
        return PlainEngine(net, torch.optim.Adam(net.parameters(), lr=1.0, fused=True), accumulation=2, bf16=False)

    straight, first = fused(Net()), fused(Net())
    run(straight, range(4))
    run(first, range(2))
    second = fused(Net())
    second.module.load_state_dict(first.weights())
    second.load_optimizer_state(first.optimizer_state())
    run(second, range(2, 4))
    assert_same_bits(straight, second)


def test_weights_that_lie_as_the_activations_do_leave_contiguous() -> None:
    engine = plain(Net(), accumulation=1)
    before = engine.weights()
    lay_channels_last(engine.module)
    assert engine.module.get_parameter("conv.weight").is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.weights().items())
    run(engine, range(1), accumulation=1)
    saved = engine.weights() | engine.optimizer_state()
    assert all(tensor.is_contiguous() for tensor in saved.values())


# -------------------------------------------------------------------------------------------------------- DeepSpeed


# What DeepSpeed and torch warn of on DeepSpeed's import is none of ours.
with_deepspeed = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def deepspeed(net: nn.Module, *, zero: int, bf16: bool = False) -> DeepSpeedEngine:
    optimizer = torch.optim.Adam(net.parameters(), lr=1.0)
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


def test_a_model_on_the_cpu_stays_there_beside_a_gpu() -> None:
    """DeepSpeed takes a GPU wherever torch sees one; with run.gpus_per_worker=0 it must not."""
    code = """
import torch
torch.cuda.is_available = lambda: True
from icon_dist.launch.local import group_of_one
from tests.engine.test_plain_engine import Net, deepspeed, run
group_of_one("gloo")
engine = deepspeed(Net(), zero=1)
run(engine, range(1))
print({p.device.type for p in engine.module.parameters()})
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["{'cpu'}"], done.stderr


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
