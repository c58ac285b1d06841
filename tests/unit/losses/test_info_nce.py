"""Eq. 1 = Eq. 4 against the equation written as loops, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist.losses import block_sparse, info_nce
from icon_dist.losses.info_nce import info_nce_sums
from icon_dist.losses.sampling import Draw, Negatives, Queries, limit_negatives
from icon_dist.tensors.torch_compat import linear_pointwise
from icon_dist.types import KeySet
from tests.support.eq1 import info_nce_loss, literal

TAU = 0.2


def among(hn: int, strategy: str = "hard", *, key: int = 0, others_only: bool = False, most: int = 0) -> Negatives:
    return Negatives(Draw(strategy, hn, key), others_only=others_only, most=most)


def asking(features: Tensor, category: Tensor, person: Tensor, active: Tensor) -> Queries:
    return Queries(features, category, person, person, active)


def units(*shape: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def random_case(seed: int) -> tuple[Queries, KeySet, KeySet]:
    """Invisible joints, people of the batch that are also in the bank, an empty category, idle queries."""
    g = torch.Generator().manual_seed(seed)
    people, classes, slots, m = 5, 6, 7, 4
    ids = torch.tensor([3, 8, 8, 11, 20])  # one person twice in the batch
    live = KeySet(
        units(classes, people, m, generator=g).requires_grad_(),
        torch.rand(classes, people, generator=g) < 0.7,
        ids.expand(classes, people).clone(),
    )
    bank = KeySet(
        units(classes, slots, m, generator=g),
        torch.rand(classes, slots, generator=g) < 0.6,
        torch.randint(0, 24, (classes, slots), generator=g),
    )
    live.valid[2], bank.valid[2] = False, False
    rows = 14
    who = torch.randint(0, people, (rows,), generator=g)
    queries = asking(
        units(rows, m, generator=g).requires_grad_(),
        torch.randint(0, classes, (rows,), generator=g),
        ids[who],
        torch.rand(rows, generator=g) < 0.8,
    )
    return queries, live, bank


@pytest.fixture(params=["spans", "blocks"])
def both_layouts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator's pairs, as a CPU would not take them, must give the same numbers."""
    if request.param == "blocks":
        for module in (block_sparse, info_nce):
            monkeypatch.setattr(module, "blocked", lambda _: True)
    monkeypatch.setattr(info_nce, "HELD", 300)  # several times of
    monkeypatch.setattr(block_sparse, "SPAN", 2)  # ... several parts,
    monkeypatch.setattr(block_sparse, "BLOCK", 3)  # and blocks


@pytest.mark.usefixtures("both_layouts")
@pytest.mark.parametrize("others_only", [False, True])
@pytest.mark.parametrize("strategy", ["hard", "all"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_loops_over_eq_1(seed: int, strategy: str, others_only: bool) -> None:
    queries, live, bank = random_case(seed)
    hn = 1 + seed % 4
    negatives = among(hn, strategy, others_only=others_only)
    loss = info_nce_loss(queries, live, bank=bank, negatives=negatives, tau=TAU)
    expected = literal(queries, [live, bank], hn=hn, strategy=strategy, others_only=others_only, tau=TAU)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    leaves = [queries.features, live.features]
    for ours, theirs in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves, allow_unused=True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("stranger", [True, False])
def test_keys_after_the_last_odd_one_count_without_being_looked_at(stranger: bool) -> None:
    """A full bank without people of the batch; or with one of them, at a place that is found."""
    queries, live, bank = random_case(0)
    bank = replace(bank, valid=torch.ones_like(bank.valid), instance=bank.instance + 1000)
    if not stranger:
        bank.instance[4, 2] = int(queries.owner[queries.category == 4][0])
    for others_only in (False, True):
        negatives = among(2, others_only=others_only)
        loss = info_nce_loss(queries, live, bank=bank, negatives=negatives, tau=TAU)
        expected = literal(queries, [live, bank], hn=2, strategy="hard", others_only=others_only, tau=TAU)
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_one_key_set_may_hold_everything() -> None:
    queries, live, bank = random_case(0)
    joined = KeySet(
        torch.cat([live.features, bank.features], 1),
        torch.cat([live.valid, bank.valid], 1),
        torch.cat([live.instance, bank.instance], 1),
    )
    apart = info_nce_loss(queries, live, bank=bank, negatives=among(2), tau=TAU)
    together = info_nce_loss(queries, joined, negatives=among(2), tau=TAU)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


def test_random_negatives_are_some_category_set_of_the_asked_size() -> None:
    """With Hn random categories the loss of each query is that of one of the subsets of size Hn."""
    queries, live, bank = random_case(1)
    populated = [c for c in range(6) if live.valid[c].any() or bank.valid[c].any()]
    found = 0
    for row in range(len(queries.category)):
        one = Queries(**{name: column[row : row + 1] for name, column in vars(queries).items()})
        one = replace(one, active=torch.tensor([True]))
        mine = int(one.category)
        drawn = info_nce_loss(one, live, bank=bank, negatives=among(2, "random", key=5), tau=TAU)
        options = []
        for i in populated:
            for j in populated:
                if i < j and mine not in (i, j):
                    kept = torch.zeros(6, 1, dtype=torch.bool)
                    kept[[mine, i, j]] = True
                    some = [replace(k, valid=k.valid & kept) for k in (live, bank)]
                    options.append(literal(one, some, hn=2, strategy="all", others_only=False, tau=TAU).item())
        assert any(math.isclose(drawn.item(), o, abs_tol=1e-9) for o in options)
        found += drawn.item() > 0
    assert found > 5


def test_random_negatives_depend_on_the_key_only() -> None:
    queries, live, bank = random_case(2)
    losses = [
        info_nce_loss(queries, live, bank=bank, negatives=among(2, "random", key=key), tau=TAU).item()
        for key in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_gradcheck() -> None:
    queries, live, bank = random_case(3)

    def sums(q: Tensor, features: Tensor) -> Tensor:
        ours, keys = replace(queries, features=q), replace(live, features=features)
        return info_nce_sums(ours, keys, bank=bank, negatives=among(2, "all"), tau=TAU)[0]

    assert torch.autograd.gradcheck(sums, (queries.features, live.features))


def test_all_embeddings_equal_is_the_log_of_one_plus_the_negatives() -> None:
    """The collapsed solution: s_p = s_n, so L = log(1 + number of negatives), whatever tau."""
    features = F.normalize(torch.ones(3, 4, 8), dim=-1)
    people = torch.arange(4).expand(3, 4)
    keys = KeySet(features, torch.ones(3, 4, dtype=torch.bool), people)
    two = asking(features[0, :2].clone(), torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([True, True]))
    for tau in (0.07, 0.5):
        loss = info_nce_loss(two, keys, negatives=among(2), tau=tau)
        torch.testing.assert_close(loss, torch.tensor(math.log(9)))


@pytest.mark.parametrize("tau", [0.001, 0.01, 0.07])
def test_finite_at_any_temperature(tau: float) -> None:
    """exp(1 / .001) is infinite; with opposite embeddings everything but the running maximum underflows."""
    queries, live, bank = random_case(4)
    q = queries.features.detach().float().requires_grad_()
    keys = replace(live, features=live.features.detach().float())
    loss = info_nce_loss(replace(queries, features=q), keys, bank=bank, negatives=among(3), tau=tau)
    exact = info_nce_loss(queries, live, bank=bank, negatives=among(3), tau=tau)
    (grad,) = torch.autograd.grad(loss, q)
    assert grad.isfinite().all()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("both_layouts")
@pytest.mark.parametrize("why", ["no query", "no key", "no positive", "no negative"])
def test_nothing_to_compare_is_a_zero_with_a_gradient(why: str) -> None:
    """So that no rank skips a collective and no empty mean becomes NaN."""
    queries, live, bank = random_case(5)
    queries = replace(queries, category=torch.ones_like(queries.category))
    if why == "no query":
        queries = replace(queries, active=torch.zeros_like(queries.active))
    for keys in (live, bank):
        if why == "no key":
            keys.valid[:] = False
        if why == "no positive":
            keys.valid[1] = False
        if why == "no negative":
            keys.valid[[0, 2, 3, 4, 5]] = False
    loss = info_nce_loss(queries, live, bank=bank, negatives=among(2), tau=TAU)
    assert loss.item() == 0
    for grad in torch.autograd.grad(loss, [queries.features, live.features]):
        assert (grad == 0).all()


def test_sums_and_counts_are_per_category() -> None:
    queries, live, bank = random_case(0)
    sums, counts = info_nce_sums(queries, live, bank=bank, negatives=among(2), tau=TAU)
    for c in range(6):
        only = replace(queries, active=queries.active & (queries.category == c))
        alone = literal(only, [live, bank], hn=2, strategy="hard", others_only=False, tau=TAU)
        torch.testing.assert_close(sums[c] / counts[c].clamp(min=1), alone, rtol=1e-9, atol=1e-9)
    assert counts[2] == 0  # its own category is empty


def test_bf16_in_fp32_out() -> None:
    low_queries, low_live, low_bank = (replace(x, features=x.features.detach().bfloat16()) for x in random_case(0))
    loss = info_nce_loss(low_queries, low_live, bank=low_bank, negatives=among(2), tau=TAU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = info_nce_loss(low_queries, low_live, bank=low_bank, negatives=among(2), tau=TAU)
    assert loss.dtype == torch.float32
    assert loss.item() == under.item()


@pytest.mark.usefixtures("both_layouts")
@pytest.mark.parametrize("operator", [linear_pointwise, None])
def test_fp32_is_the_same_loss(operator: Callable[..., Tensor] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products take another path on a CPU, where torch has oneDNN's operator and where it has not."""
    monkeypatch.setattr(block_sparse, "onednn", operator)
    queries, live, bank = random_case(1)
    q, features = (x.features.detach().float().requires_grad_() for x in (queries, live))
    ours, keys = replace(queries, features=q), replace(live, features=features)
    loss = info_nce_loss(ours, keys, bank=replace(bank, features=bank.features.float()), negatives=among(3), tau=TAU)
    exact = info_nce_loss(queries, live, bank=bank, negatives=among(3), tau=TAU)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(loss, [q, features])
    expected = torch.autograd.grad(exact, [queries.features, live.features])
    for low, high in zip(found, expected, strict=True):
        torch.testing.assert_close(low.double(), high, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("both_layouts")
@pytest.mark.parametrize("seed", range(3))
def test_products_of_bf16_are_off_by_their_rounding(seed: int) -> None:
    """8 bits round a factor by 2^-9 of it, hence s of unit vectors by 2^-8 / tau, and L_i, which is the log of a ratio
    of such, by twice that; a slope is a weight times keys, each rounded once, of weights that are off as s is."""
    queries, live, bank = random_case(seed)
    q, features = (x.features.detach().float().requires_grad_() for x in (queries, live))
    ours, keys, stored = (
        replace(queries, features=q),
        replace(live, features=features),
        replace(bank, features=bank.features.float()),
    )
    losses, slopes = [], []
    for dtype in ("fp32", "bf16"):
        loss = info_nce_loss(ours, keys, bank=stored, negatives=among(3, "all"), tau=TAU, products=dtype)
        losses.append(loss.item())
        slopes.append(torch.autograd.grad(loss, [q, features]))
    off = 2**-8 / TAU
    assert 0 < abs(losses[1] - losses[0]) <= 2 * off
    for exact, found in zip(*slopes, strict=True):
        assert 0 < (found - exact).norm() <= (2 * off + 2**-8) * exact.norm()
        assert found.dtype == torch.float32


@pytest.mark.usefixtures("both_layouts")
def test_max_negatives_limits_negatives_and_not_positives() -> None:
    """All embeddings equal: the loss counts the negatives, log(1 + Hn * most); every positive stays in the mean."""
    features = F.normalize(torch.ones(4, 9, 8), dim=-1)
    keys = KeySet(features, torch.ones(4, 9, dtype=torch.bool), torch.arange(9).expand(4, 9).contiguous())
    one = asking(features[0, :1].clone(), torch.tensor([0]), torch.tensor([0]), torch.tensor([True]))
    for most, count in ((1, 2), (5, 10), (9, 18), (100, 18), (0, 18)):
        loss = info_nce_loss(one, keys, negatives=among(2, most=most), tau=TAU)
        torch.testing.assert_close(loss, torch.tensor(math.log(1 + count)))


def test_limited_negatives_are_a_random_part_of_every_category() -> None:
    valid = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)) < 0.7
    parts = [limit_negatives(valid, 8, key=key) for key in (1, 1, 2)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    for part in parts:
        assert (part & ~valid).sum() == 0
        assert part.sum(1).tolist() == [8] * 5
    often = torch.stack([limit_negatives(valid, 8, key=key) for key in range(600)]).float().mean(0)
    expected = 8 / valid.sum(1, keepdim=True) * valid
    assert (often - expected).abs().max() < 0.1  # 5 standard deviations


def test_slopes_are_freed_by_the_backward_pass() -> None:
    """They are the largest tensors of a step, and would else live until the next one has made its own."""
    queries, keys, bank = random_case(0)
    sums, _ = info_nce_sums(queries, keys, negatives=among(2), tau=TAU, bank=bank)
    node: Any = sums.grad_fn
    while type(node).__name__ != "_ConsistencyBackward":
        assert node is not None
        node = node.next_functions[0][0]
    sums.sum().backward()
    with pytest.raises(RuntimeError, match="freed"):
        _ = node.saved_tensors
    kept = [value for part in (*node.negative, *node.positive) for value in vars(part).values()]
    assert (
        max((value.numel() for value in kept if isinstance(value, Tensor)), default=0) <= queries.category.numel() * 6
    )
