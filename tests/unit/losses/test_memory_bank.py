"""Each known bug of public memory banks has a test, ``test_bug_*``; expected contents come from deques.

``test_bug_per_rank_order_differs`` needs ranks: tests/runs/ranks/test_exchange.py.
"""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from torch import Tensor

from icon_dist.errors import CheckpointError
from icon_dist.losses.memory_bank import MemoryBank
from icon_dist.losses.sampling import Draw, Negatives, Queries
from icon_dist.types import KeySet
from tests.support.eq1 import info_nce_loss


def contents(bank: MemoryBank) -> list[set[tuple[float, int]]]:
    """(first number, person) of the valid slots of each category."""
    keys = bank.keys()
    return [
        {(f[0].item(), int(i)) for f, v, i in zip(*rows, strict=True) if v}
        for rows in zip(keys.features, keys.valid, keys.instance, strict=True)
    ]


def push(bank: MemoryBank, numbers: list[float], *, category: int = 0, categories: int = 2, step: int = 0) -> None:
    """Rows whose embedding starts with a number and whose person is that number; visible in one category."""
    features = torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(-1, categories, 2).contiguous()
    visible = torch.zeros(len(numbers), categories, dtype=torch.bool)
    visible[:, category] = True
    bank.push(features, visible, torch.tensor(numbers).long(), step=step)


def test_equals_deques_over_many_random_pushes() -> None:
    g = torch.Generator().manual_seed(0)
    bank, expected = MemoryBank(3, 5, 2), [deque[tuple[float, int]](maxlen=5) for _ in range(3)]
    for step in range(60):
        rows = int(torch.randint(1, 14, (1,), generator=g))
        features = torch.randn(rows, 3, 2, generator=g)
        visible = torch.rand(rows, 3, generator=g) < 0.4
        instance = torch.randint(0, 99, (rows,), generator=g)
        bank.push(features, visible, instance, step=step)
        for r in range(rows):
            for c in range(3):
                if visible[r, c]:
                    expected[c].append((features[r, c, 0].item(), int(instance[r])))
        assert contents(bank) == [set(d) for d in expected]


def test_bug_random_vectors_before_the_ring_is_full() -> None:
    """Bug: the ring starts as random vectors that are used before it is full."""
    bank = MemoryBank(2, 8, 2)
    assert not bank.keys().valid.any()
    push(bank, [1, 2, 3])
    assert bank.keys().valid.sum().item() == 3
    assert bank.fill().item() == 3 / 16


def test_bug_pointer_advanced_by_1_after_writing_many() -> None:
    """Bug: the pointer moves on by 1 after writing several rows."""
    bank = MemoryBank(2, 8, 2)
    push(bank, [1, 2, 3])
    push(bank, [4, 5])
    assert contents(bank)[0] == {(n, n) for n in (1, 2, 3, 4, 5)}


def test_bug_wrap_overwrites_the_newest() -> None:
    """The wrap replaces the oldest: one write at a time, the ring always holds the last four."""
    bank = MemoryBank(2, 4, 2)
    for n in range(1, 12):
        push(bank, [n])
        assert contents(bank)[0] == {(k, k) for k in range(max(1, n - 3), n + 1)}


def test_bug_remainder_dropped_at_the_wrap() -> None:
    """Of three rows with room for one before the end, the other two go to the beginning."""
    bank = MemoryBank(2, 4, 2)
    push(bank, [1, 2, 3])
    push(bank, [4, 5, 6])
    assert contents(bank)[0] == {(n, n) for n in (3, 4, 5, 6)}


def test_a_push_larger_than_the_ring_keeps_the_newest_and_then_goes_on() -> None:
    bank = MemoryBank(2, 3, 2)
    push(bank, [1])
    push(bank, [2, 3, 4, 5, 6, 7, 8, 9])
    assert contents(bank)[0] == {(n, n) for n in (7, 8, 9)}
    push(bank, [10])
    assert contents(bank)[0] == {(n, n) for n in (8, 9, 10)}


def test_bug_category_0_skipped() -> None:
    """Bug: category 0 is taken for background and skipped."""
    bank = MemoryBank(2, 4, 2)
    push(bank, [1], category=0)
    push(bank, [2], category=1)
    assert contents(bank) == [{(1, 1)}, {(2, 2)}]


def test_bug_wrong_rows_picked_by_a_permutation_of_a_subset() -> None:
    """Bug: a permutation of the subset indexes the whole set. Embedding, person and step stay together."""
    bank = MemoryBank(1, 4, 1)
    features = torch.arange(6.0).view(6, 1, 1)
    visible = torch.tensor([[False], [True], [False], [False], [True], [True]])
    bank.push(features, visible, torch.arange(6), step=3)
    assert contents(bank) == [{(1, 1), (4, 4), (5, 5)}]
    assert bank.age(10).item() == 7


def test_bug_positions_lost_on_resume() -> None:
    """Bug: write positions are lost on resume."""
    bank = MemoryBank(2, 4, 2)
    push(bank, [1, 2, 3], step=7)
    saved = bank.state_dict()
    resumed = MemoryBank(2, 4, 2)
    resumed.load_state_dict({k: v.clone() for k, v in saved.items()})
    for b in (bank, resumed):
        push(b, [4, 5], step=8)
    for name, tensor in bank.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert torch.equal(saved["features"][0, :3, 0], torch.tensor([1.0, 2.0, 3.0]))  # a snapshot, not a view
    assert resumed.ready(17, warmup=10)
    assert not resumed.ready(16, warmup=10)


def test_bug_buffers_overwritten_by_a_broadcast() -> None:
    """Who holds a bank does not hand it to a broadcast, or an average, of the module's buffers."""
    holder = torch.nn.Linear(1, 1)
    holder.bank = MemoryBank(1, 1, 1)
    assert not list(holder.buffers())
    assert set(holder.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("rows", [0, 3])
def test_pushing_nothing_changes_nothing(rows: int) -> None:
    bank = MemoryBank(2, 4, 2)
    push(bank, [1, 2])
    before = contents(bank)
    bank.push(torch.randn(rows, 2, 2), torch.zeros(rows, 2, dtype=torch.bool), torch.arange(rows), step=1)
    assert contents(bank) == before


def test_bug_nan_when_a_mask_is_empty() -> None:
    """Bug: NaN when a mask is empty."""
    query = torch.eye(2, 4).requires_grad_()
    empty = MemoryBank(2, 4, 4).keys()
    idle = KeySet(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 0, dtype=torch.int64))
    ids, active = torch.tensor([0, 1]), torch.tensor([True, True])
    queries = Queries(query, ids, ids, ids, active)
    loss = info_nce_loss(queries, idle, bank=empty, negatives=Negatives(Draw("hard", 1)), tau=0.07)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, query)[0], torch.zeros(2, 4))


def test_not_ready_before_the_first_push() -> None:
    assert not MemoryBank(1, 1, 1).ready(10**6, warmup=0)


def test_pushed_rows_keep_no_gradient() -> None:
    bank = MemoryBank(1, 2, 2)
    row: Tensor = torch.ones(1, 1, 2, requires_grad=True)
    bank.push(row * 2, torch.ones(1, 1, dtype=torch.bool), torch.tensor([0]), step=0)
    assert not bank.keys().features.requires_grad


@pytest.mark.parametrize("pushed", [0, 3, 5, 13])
@pytest.mark.parametrize("slots", [1, 3, 5, 9])
def test_a_ring_of_another_size_keeps_all_or_the_newest(slots: int, pushed: int) -> None:
    bank, resumed = MemoryBank(2, 5, 2), MemoryBank(2, slots, 2)
    expected = deque[int](maxlen=5)
    for n in range(1, pushed + 1):
        push(bank, [n], step=n)
        expected.append(n)
    resumed.load_state_dict(bank.state_dict())
    for more in range(100, 100 + slots + 2):  # goes on after what it holds, round the ring
        newest = list(expected)[-slots:]
        assert contents(resumed)[0] == {(n, n) for n in newest}
        if more == 100:
            age = sum(50 - n for n in newest) / max(len(newest), 1)
            assert resumed.age(50).item() == pytest.approx(age)
            expected = deque(newest, maxlen=slots)
        push(resumed, [more], step=more)
        expected.append(more)


def test_a_ring_of_the_same_size_keeps_its_places() -> None:
    """Bit-exact resume: the order of candidates is the order of summation."""
    bank, resumed = MemoryBank(2, 4, 2), MemoryBank(2, 4, 2)
    push(bank, [1, 2, 3, 4, 5, 6])
    resumed.load_state_dict(bank.state_dict())
    assert torch.equal(resumed.keys().features, bank.keys().features)


def test_a_bank_of_another_run_is_refused_in_one_line() -> None:
    with pytest.raises(CheckpointError, match=r"features is \[2, 8, 3\] in the checkpoint, \[2, 8, 2\] here"):
        MemoryBank(2, 8, 2).load_state_dict(MemoryBank(2, 8, 3).state_dict())
    with pytest.raises(CheckpointError, match=r"features is \[3, 8, 2\] in the checkpoint, \[2, 8, 2\] here"):
        MemoryBank(2, 8, 2).load_state_dict(MemoryBank(3, 8, 2).state_dict())
    with pytest.raises(CheckpointError, match="holds \\[\\]"):
        MemoryBank(2, 8, 2).load_state_dict({})


def test_a_bank_forgets_a_step_that_must_not_be_kept() -> None:
    bank, generator = MemoryBank(2, 4, 3), torch.Generator().manual_seed(0)
    visible, person = torch.ones(3, 2, dtype=torch.bool), torch.arange(3)

    def push_one(step: int, *, keep: bool) -> None:
        features = torch.randn(3, 2, 3, generator=generator) * (1 if keep else math.nan)
        bank.push(features, visible, person, step=step, keep=torch.tensor(keep))

    fresh = bank.state_dict()
    push_one(0, keep=False)
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in bank.state_dict().items())
    assert not bank.ready(10, warmup=0)
    push_one(1, keep=True)
    kept = bank.state_dict()
    push_one(2, keep=False)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in bank.state_dict().items())
    assert kept["began"] == 1
