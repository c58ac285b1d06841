"""SKCC forward + backward against the loops over Eq. 1, a loop over categories, a dense mask, and SupCon with
CrossBatchMemory of pytorch-metric-learning: ratios of medians, interleaved, printed and not asserted.

PERFORMANCE: N=64, K=17, m=256, bank 512, Q 5, Hn 6. On a busy machine, on one core::

    OMP_NUM_THREADS=1 taskset -c 1 pytest -m slow tests/benchmarks/test_info_nce_speed.py -s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from pytorch_metric_learning.losses import CrossBatchMemory, SupConLoss
from torch import Tensor
from torch.nn import functional as F

from icon_dist.losses.info_nce import mean_of_categories
from icon_dist.losses.sampling import Draw, Negatives, Queries, choose_negatives
from icon_dist.types import KeySet
from tests.support.eq1 import info_nce_loss

N, K, M, S, Q, HN, TAU = 64, 17, 256, 512, 5, 6, 0.07
HARD = Negatives(Draw("hard", HN))
Case = tuple[Tensor, Tensor, Tensor, KeySet, KeySet]


def case(points: int, *, seed: int) -> Case:
    """Of another step each time: how many queries a category has changes, and with it the shapes of all products."""
    g = torch.Generator().manual_seed(seed)

    def units(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=g), dim=-1)

    exchanged = units(N, K, M).transpose(0, 1).requires_grad_()  # strided, as the exchange hands them over
    live = KeySet(exchanged, torch.ones(K, N).bool(), torch.arange(N).expand(K, N))
    bank = KeySet(units(K, S, M), torch.ones(K, S).bool(), torch.randint(1000, 2000, (K, S), generator=g))
    asked = torch.stack([torch.randperm(K, generator=g)[:Q] for _ in range(N)])
    category = asked[:, :, None].expand(N, Q, points).flatten()
    instance = torch.arange(N)[:, None].expand(N, Q * points).flatten()
    return units(N * Q * points, M).requires_grad_(), category, instance, live, bank


def ours(query: Tensor, category: Tensor, instance: Tensor, live: KeySet, bank: KeySet) -> Tensor:
    return info_nce_loss(asking(query, category, instance), live, bank=bank, negatives=HARD, tau=TAU)


def asking(query: Tensor, category: Tensor, person: Tensor) -> Queries:
    return Queries(query, category, person, person, torch.ones_like(category).bool())


def loops(query: Tensor, category: Tensor, instance: Tensor, live: KeySet, bank: KeySet) -> Tensor:
    """Eq. 1 read aloud: for each query its positives, its categories by mean cosine, its negatives."""
    features = torch.cat([live.features, bank.features], 1).unbind(0)  # indexing would fill a whole gradient a query
    owner = torch.cat([live.instance, bank.instance], 1)
    centroids = torch.stack([f.detach().mean(0) for f in features])
    sums, counts = query.new_zeros(K), query.new_zeros(K)
    for q, c, person in zip(query.unbind(0), category, instance, strict=True):
        positives = (features[c] @ q / TAU)[owner[c] != person]
        score = centroids @ q.detach()
        score[c] = -torch.inf
        negatives = torch.cat([features[k] @ q / TAU for k in score.topk(HN).indices])
        loss = F.softplus(torch.logsumexp(negatives, 0) - positives).mean()
        sums = sums.index_add(0, c[None], loss[None])
        counts[c] += 1
    return mean_of_categories(sums, counts)


def by_category(query: Tensor, category: Tensor, instance: Tensor, live: KeySet, bank: KeySet) -> Tensor:
    """A loop over the categories of the queries; each compares its queries with everything and masks."""
    features = torch.cat([live.features, bank.features], 1).unbind(0)
    owner = torch.cat([live.instance, bank.instance], 1)
    chosen = hardest(query, category, instance, live, bank)
    sums, counts = [], []
    for c in range(K):
        q, mine = query[category == c], chosen[category == c]
        s = torch.stack([q @ f.T / TAU for f in features], 1)  # [rows, K, N + S]
        log_z = s.masked_fill(~mine[..., None], -torch.inf).flatten(1).logsumexp(1, keepdim=True)
        positive = owner[c] != instance[category == c][:, None]
        sums.append(((F.softplus(log_z - s[:, c]) * positive).sum(1) / positive.sum(1)).sum())
        counts.append(len(q))
    return mean_of_categories(torch.stack(sums), torch.tensor(counts).float())


def supcon(query: Tensor, category: Tensor, instance: Tensor, live: KeySet, bank: KeySet) -> Tensor:
    """Less than ours: no hard categories, no gradient for keys, and every positive in every denominator."""
    del instance
    keys = torch.cat([live.features.detach(), bank.features], 1)
    memory = CrossBatchMemory(SupConLoss(temperature=TAU), M, memory_size=K * (N + S))
    memory.embedding_memory, memory.has_been_filled = keys.flatten(0, 1), True
    memory.label_memory = torch.arange(K).repeat_interleave(N + S)
    loss: Tensor = memory(query, category)
    return loss


def hardest(query: Tensor, category: Tensor, instance: Tensor, live: KeySet, bank: KeySet) -> Tensor:
    keys = KeySet(
        torch.cat([live.features.detach(), bank.features], 1),
        torch.cat([live.valid, bank.valid], 1),
        torch.cat([live.instance, bank.instance], 1),
    )
    return choose_negatives(asking(query.detach(), category, instance), keys, HARD)


def dense(query: Tensor, category: Tensor, instance: Tensor, live: KeySet, bank: KeySet) -> Tensor:
    """All queries against all candidates, then masks (as in ContrastiveSeg)."""
    features = torch.cat([live.features, bank.features], 1)
    owner = torch.cat([live.instance, bank.instance], 1).flatten()
    chosen = hardest(query, category, instance, live, bank).repeat_interleave(N + S, 1)
    own = category[:, None] == torch.arange(K).repeat_interleave(N + S)
    s = query @ features.flatten(0, 1).T / TAU
    log_z = s.masked_fill(~chosen, -torch.inf).logsumexp(1, keepdim=True)
    positive = own & (owner != instance[:, None])
    each = (F.softplus(log_z - s) * positive).sum(1) / positive.sum(1)
    onehot = F.one_hot(category, K).to(each)
    return mean_of_categories(each @ onehot, onehot.sum(0))


def run(loss: Callable[..., Tensor], tensors: Case) -> float:
    tensors[0].grad = tensors[3].features.grad = None
    value = loss(*tensors)
    value.backward()
    return value.item()


def peak_growth(loss: Callable[..., Tensor], tensors: Case) -> float:
    """MiB that the allocator handed out and still held at the worst moment."""
    from torch.profiler import profile

    with profile(profile_memory=True) as p:
        run(loss, tensors)
    held = worst = 0
    for event in sorted(p.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            worst = max(worst, held)
    return worst / 2**20


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("points", "rounds"), [(1, 11), (16, 3)])
def test_speed(points: int, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    tensors = case(points, seed=0)
    peers = {"ours": ours, "dense mask": dense, "by category": by_category}
    if points == 1:  # with 16, SupCon takes 15 GB and half a minute
        peers |= {"SupCon": supcon, "Eq. 1 loops": loops}
    values = {name: run(peer, tensors) for name, peer in peers.items()}
    for name in peers.keys() - {"SupCon"}:
        assert values[name] == pytest.approx(values["ours"], rel=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for seed in range(rounds):
        tensors = case(points, seed=seed)
        for name in [*peers][seed % len(peers) :] + [*peers][: seed % len(peers)]:  # nobody is always the first
            start = time.process_time()
            run(peers[name], tensors)
            seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    times = {name: seconds / median["ours"] for name, seconds in median.items()}
    memory = {name: peak_growth(peer, tensors) for name, peer in peers.items() if name != "Eq. 1 loops"}
    products = 2 * len(tensors[0]) * K * (N + S) * 4 / 2**20  # two dense ones, of all queries with all candidates
    with capsys.disabled():
        print(f"\nSKCC forward + backward, {points} point(s), {len(tensors[0])} queries:")
        for name in peers:
            held = f"+{memory[name]:.0f} MiB" if name in memory else ""
            print(f"  {name:12} {1e3 * median[name]:8.1f} ms  {times[name]:6.1f} x ours  {held}")
    assert memory["ours"] <= 1.5 * products
