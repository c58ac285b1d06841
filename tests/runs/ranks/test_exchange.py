"""What travels between ranks, counted and compared on real gloo processes: budget, one-step-stale mode, bf16, banks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from icon_dist import distributed
from icon_dist.config import BankConfig, LossConfig
from icon_dist.losses.exchange import Centers, Exchange
from icon_dist.methods.objective import Objective
from icon_dist.types import Batch
from tests.runs.ranks.test_ranks import SKELETON, Net, joined_batch
from tests.support.on_ranks import flat, on_ranks

PEOPLE, K, M = 32, 3, 8  # of one rank
BIG = 2**62  # ids that a float could not hold


def joints(step: int, rank: int) -> Centers:
    g = torch.Generator().manual_seed(100 * step + rank)
    return Centers(
        F.normalize(torch.randn(PEOPLE, K, M, generator=g), dim=-1).requires_grad_(),
        torch.rand(PEOPLE, K, generator=g) < 0.6,
        BIG + 1000 * rank + torch.arange(PEOPLE),
    )


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Messages and bytes that this rank receives."""
    seen = {"messages": 0, "bytes": 0}
    names = [n for n in ("all_gather_single", "all_gather_into_tensor", "all_reduce") if hasattr(dist, n)]
    originals = {name: getattr(dist, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def call(received: Tensor, *args: Any, **options: Any) -> Any:
            seen["messages"] += 1
            seen["bytes"] += received.numel() * received.element_size()
            return originals[name](received, *args, **options)

        return call

    for name in names:
        setattr(dist, name, counting(name))
    try:
        yield seen
    finally:
        for name in names:
            setattr(dist, name, originals[name])


def traffic(budget: int) -> dict[str, dict[str, int]]:
    """Of one step, there and back."""
    found = {}
    for mode in ("sync", "async"):
        for wire in ("fp32", "bf16"):
            exchange = Exchange(mode=mode, wire=wire, budget=budget, seed=0)
            with counted() as seen:
                exchange.share(joints(0, distributed.rank()), step=0).features.sum().backward()
                exchange.commit()
                exchange.arrived()
            found[f"{mode} {wire}"] = seen
    return found


@pytest.mark.parametrize("worlds", [(2, 4), pytest.param((8, 16), marks=pytest.mark.slow)])
@pytest.mark.parametrize("budget", [48, 50])
def test_bytes_received_do_not_grow_with_the_world(budget: int, worlds: tuple[int, int], tmp_path: Path) -> None:
    small = K + 8  # visibility and id
    for world in worlds:
        people = math.ceil(budget / world) * world
        forth = {wire: people * (K * M * size + small) for wire, size in (("fp32", 4), ("bf16", 2))}
        back = people * K * M * 4  # the gradient, in fp32
        expected = {f"sync {wire}": {"messages": 2, "bytes": there + back} for wire, there in forth.items()} | {
            f"async {wire}": {"messages": 1, "bytes": there} for wire, there in forth.items()
        }
        for found in on_ranks(traffic, budget, world=world, folder=tmp_path):
            assert found == expected
        assert people == budget or budget % world


def told(mode: str, wire: str) -> dict[str, Tensor]:
    """One step; rank r weights everything it got by r + 1."""
    own = joints(0, distributed.rank())
    exchange = Exchange(mode=mode, wire=wire, seed=0)
    got = exchange.share(own, step=7)
    (got.features * (distributed.rank() + 1)).sum().backward()
    exchange.commit()
    ((step, arrived),) = exchange.arrived()
    assert step == 7
    assert exchange.arrived() == []
    assert own.features.grad is not None
    return {
        "live": got.features.detach(),
        "features": arrived.features,
        "visible": arrived.visible,
        "instance": arrived.instance,
        "grad": own.features.grad,
    }


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_everybody_gets_the_same_in_rank_order(mode: str, wire: str, tmp_path: Path) -> None:
    world = 3
    everybody = [joints(0, rank) for rank in range(world)]
    features = torch.cat([c.features.detach() for c in everybody])
    if wire == "bf16":
        features = F.normalize(features.bfloat16().float(), dim=-1)  # rounded on the way, of unit norm on arrival
        assert not torch.equal(features, torch.cat([c.features.detach() for c in everybody]))
    for rank, found in enumerate(on_ranks(told, mode, wire, world=world, folder=tmp_path)):
        assert torch.equal(found["features"], features)
        assert torch.equal(found["visible"], torch.cat([c.visible for c in everybody]))
        assert torch.equal(found["instance"], torch.cat([c.instance for c in everybody]))
        own = everybody[rank].features.detach()
        assert torch.equal(found["live"], features if mode == "sync" else own)
        assert found["grad"].dtype == torch.float32
        assert torch.equal(found["grad"], torch.full_like(own, 1 + 2 + 3 if mode == "sync" else rank + 1))


def test_the_budget_takes_whole_people_at_random() -> None:
    own = joints(0, 0)
    exchange = Exchange(budget=5, seed=0)
    parts = [exchange.share(own, step=step) for step in range(8)]
    for part in parts:
        rows = part.instance - BIG
        assert len(rows) == 5
        assert torch.equal(part.features, own.features[rows])
        assert torch.equal(part.visible, own.visible[rows])
    assert len({tuple(part.instance.tolist()) for part in parts}) == 8
    assert torch.equal(exchange.share(own, step=3).instance, parts[3].instance)


def config(mode: str = "sync", wire: str = "fp32") -> LossConfig:
    return LossConfig(tau=0.2, points=1, bank=BankConfig(slots=12, warmup=0, exchange=mode, wire=wire))


def fresh(cfg: LossConfig) -> Objective:
    return Objective(cfg, SKELETON, embedding_dim=6, embedding_stride=4, sigma=2.0, seed=3)


def steps(objective: Objective, which: list[int], *, discard: tuple[int, ...] = ()) -> list[dict[str, float]]:
    """Training steps on this rank's part of the joined batches; the weights stay."""
    torch.manual_seed(0)
    net = Net().double()
    own = 8 // distributed.world_size()
    mine = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    scalars = []
    for step in which:
        image, batch, target, weight = joined_batch(step)
        part = Batch(**{field: tensor[mine] for field, tensor in vars(batch).items()})
        losses = objective(net(image[mine]), part, target[mine], weight[mine], step=step, epoch=0.0)
        losses.total.backward()
        if step not in discard:
            objective.commit()
        scalars.append(losses.scalars())
    return scalars


def train(mode: str, wire: str) -> dict[str, Any]:
    """A run in one go, one that was saved and loaded, one of which a step was discarded, one without that step."""
    cfg = config(mode, wire)
    whole, first, second, discarding, without = (fresh(cfg) for _ in range(5))
    found = {"whole losses": steps(whole, [0, 1, 2, 3]), "whole": whole.state_dict()}
    steps(first, [0, 1])
    saved = first.state_dict()
    second.load_state_dict(saved)
    found |= {"resumed losses": steps(second, [2, 3]), "saved": saved, "resumed": second.state_dict()}
    steps(discarding, [0, 1, 2], discard=(1,))
    steps(without, [0, 2])
    return found | {"discarding": discarding.state_dict(), "without": without.state_dict()}


def straight(mode: str) -> dict[str, Tensor]:
    objective = fresh(config(mode))
    steps(objective, [0, 1, 2, 3])
    return objective.state_dict()


def same(a: Any, b: Any) -> bool:
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs")
    modes = [("sync", "fp32"), ("async", "fp32"), ("async", "bf16")]
    return {" ".join(mode): on_ranks(train, *mode, world=2, folder=folder) for mode in modes}


@pytest.mark.parametrize("mode", ["sync fp32", "async fp32", "async bf16"])
def test_resume_is_bit_exact_and_a_checkpoint_complete(runs: dict[str, list[dict[str, Any]]], mode: str) -> None:
    for found in runs[mode]:
        assert same(found["whole"], found["resumed"])
        assert found["whole losses"][2:] == found["resumed losses"]
        assert found["saved"]["skcc.step"].max() == 1  # the last step before it is in the checkpoint
        assert same(found["whole"], runs[mode][0]["whole"])


@pytest.mark.parametrize("mode", ["sync fp32", "async fp32", "async bf16"])
def test_a_discarded_step_does_not_enter_the_bank(runs: dict[str, list[dict[str, Any]]], mode: str) -> None:
    for found in runs[mode]:
        assert same(found["discarding"], found["without"])
        assert not (found["discarding"]["skcc.step"] == 1).any()


def test_async_holds_the_same_bank_and_sees_fewer_live_tokens(runs: dict[str, list[dict[str, Any]]]) -> None:
    for waiting, stale in zip(runs["sync fp32"], runs["async fp32"], strict=True):
        assert same(waiting["whole"], stale["whole"])
        assert waiting["whole losses"] != stale["whole losses"]


def test_bug_per_rank_order_differs(tmp_path: Path) -> None:
    """Every rank pushes in rank-major order, whoever is first to send: rings as of one deque per joint."""
    for mode in ("sync", "async"):
        rings = on_ranks(straight, mode, world=4, folder=tmp_path)
        for found in rings:
            assert same(found, rings[0])
        for joint in range(4):
            expected: deque[tuple[int, int]] = deque(maxlen=12)
            for step in range(4):
                _, batch, _, _ = joined_batch(step)
                inside = ((batch.joints >= 0) & (batch.joints <= 28)).all(-1)
                seen = (batch.visible & inside)[:, joint]
                expected.extend((step, int(i)) for i in batch.instance[seen])
            state = rings[0]
            ring = zip(state["skcc.step"][joint].tolist(), state["skcc.instance"][joint].tolist(), strict=True)
            start, filled = int(state["skcc.next"][joint]), int(state["skcc.filled"][joint])
            ordered = deque(ring)
            ordered.rotate(-start if filled == 12 else 0)
            assert list(ordered)[:filled] == list(expected)


def resume(saved: dict[str, Tensor]) -> dict[str, Any]:
    objective = fresh(config())
    objective.load_state_dict(saved)
    loaded = objective.state_dict()
    return {"loaded": loaded, "losses": steps(objective, [2]), "after": objective.state_dict()}


def test_a_bank_of_two_ranks_goes_on_with_one_or_four(runs: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    saved = runs["sync fp32"][0]["saved"]
    expected = on_ranks(resume, saved, world=2, folder=tmp_path)[0]
    for found in [resume(saved), *on_ranks(resume, saved, world=4, folder=tmp_path)]:
        assert same(found["loaded"], saved)
        for path, value in flat(found).items():
            torch.testing.assert_close(value, flat(expected)[path], rtol=1e-6, atol=1e-9, msg=path)
