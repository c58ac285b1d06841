"""Random cases of everything at once against loops in plain Python, in float64, on 1, 2 and 3 ranks.

Strategies, category scores, visibility, bank fill, whose candidates count, budgets. Random draws are repeated with
Python's own integers.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from icon_dist import distributed
from icon_dist.losses.exchange import Centers, Exchange
from icon_dist.losses.info_nce import info_nce_sums, mean_of_categories
from icon_dist.losses.memory_bank import MemoryBank
from icon_dist.losses.sampling import Draw, Negatives, Queries
from tests.support.on_ranks import on_ranks

CASES = 34  # per number of ranks
DIM = 4


@dataclass(frozen=True)
class Case:
    """What is drawn: options, and the people of all ranks with a history that the bank has seen."""

    negatives: Negatives
    tau: float
    slots: int
    people: Centers  # "instance" is who owns a token: a person, or the photo
    person: Tensor
    asks: Tensor
    history: list[Centers]


def draw(seed: int, world: int) -> Case:
    dice, g = random.Random(seed), torch.Generator().manual_seed(seed)
    classes, people = dice.randint(2, 5), world * dice.randint(1, 3)
    visible = dice.choice([0.0, 0.4, 0.8, 1.0])

    def centers(rows: int) -> tuple[Centers, Tensor]:
        person = torch.randint(0, 12, (rows,), generator=g) + 2**40  # they come back
        features = F.normalize(torch.randn(rows, classes, DIM, generator=g, dtype=torch.float64), dim=-1)
        seen = torch.rand(rows, classes, generator=g) < visible
        return Centers(features, seen, person // 3 if photos else person), person

    photos = dice.random() < 0.4
    now, person = centers(people)
    low = dice.randint(1, classes)
    return Case(
        negatives=Negatives(
            Draw(
                dice.choice(["hard", "hard", "random", "all"]),
                count=(low, low + dice.randint(0, 2)),
                key=dice.randrange(2**62),
            ),
            score=dice.choice(["mean", "max"]),
            others_only=dice.random() < 0.4,
            most=dice.choice([0, 0, 1, 3]),
        ),
        tau=dice.choice([0.07, 0.2, 1.0]),
        slots=dice.randint(1, 5),
        people=now,
        person=person,
        asks=torch.rand(people, classes, generator=g) < 0.9,
        history=[centers(dice.randint(1, 4))[0] for _ in range(dice.randint(0, 3))],
    )


def bank_of(case: Case) -> MemoryBank:
    bank = MemoryBank(case.people.visible.shape[1], case.slots, DIM)
    for step, old in enumerate(case.history):
        bank.push(old.features, old.visible, old.instance, step=step)
    return bank


def ours(seeds: list[int]) -> list[dict[str, Tensor]]:
    """Loss and gradient of this rank's part of each case."""
    found = []
    for seed in seeds:
        case = draw(seed, distributed.world_size())
        part = len(case.person) // distributed.world_size()
        mine = slice(distributed.rank() * part, (distributed.rank() + 1) * part)
        features = case.people.features[mine].clone().requires_grad_()
        visible, owner, person = (x[mine] for x in (case.people.visible, case.people.instance, case.person))
        classes = visible.shape[1]
        live = Exchange(seed=0).share(Centers(features, visible, owner), step=0)
        sums, counts = info_nce_sums(
            Queries(
                features.flatten(0, 1),
                torch.arange(classes).repeat(part),
                owner.repeat_interleave(classes),
                person.repeat_interleave(classes),
                (visible & case.asks[mine]).flatten(),
            ),
            live.keys(),
            negatives=case.negatives,
            tau=case.tau,
            bank=bank_of(case).keys() if case.history else None,
        )
        loss = distributed.world_size() * mean_of_categories(sums, distributed.sum_over_ranks(counts))
        loss.backward()
        assert features.grad is not None
        found.append({"loss": loss.detach(), "grad": features.grad})
    return found


def naive(case: Case) -> tuple[Tensor, Tensor]:
    """Eq. 1, one query at a time."""
    asked = case.negatives
    features = case.people.features.clone().requires_grad_()
    people, classes = case.people.visible.shape
    stored = bank_of(case).keys()
    candidates: dict[int, list[tuple[Tensor, int]]] = {c: [] for c in range(classes)}  # of a category, with owner
    limited: dict[int, list[tuple[Tensor, int]]] = {c: [] for c in range(classes)}  # those that may be negatives
    for c in range(classes):
        places = [(features[n, c], int(case.people.instance[n]), n) for n in range(people) if case.people.visible[n, c]]
        if case.history:
            places += [
                (stored.features[c, s].double(), int(stored.instance[c, s]), people + s)
                for s in range(case.slots)
                if stored.valid[c, s]
            ]
        candidates[c] = [(k, owner) for k, owner, _ in places]
        if asked.most:
            places.sort(key=lambda place: -uniform(asked.draw.key, c, place[2]))
            places = places[: asked.most]
        limited[c] = [(k, owner) for k, owner, _ in places]

    losses: dict[int, list[Tensor]] = {}
    for n, c in itertools.product(range(people), range(classes)):
        if not (case.people.visible[n, c] and case.asks[n, c]):
            continue
        owner, person = int(case.people.instance[n]), int(case.person[n])
        positives = [torch.dot(features[n, c], k) / case.tau for k, whose in candidates[c] if whose != owner]
        possible = {
            other: [k for k, whose in limited[other] if not (asked.others_only and whose == owner)]
            for other in range(classes)
            if other != c
        }
        cosines = {other: [torch.dot(features[n, c], k) for k in keys] for other, keys in possible.items() if keys}
        negatives = [s / case.tau for other in compared(case, person, c, cosines) for s in cosines[other]]
        if not positives or not negatives:
            continue
        pushed = sum(torch.exp(s) for s in negatives)
        each = [-torch.log(torch.exp(s) / (torch.exp(s) + pushed)) for s in positives]
        losses.setdefault(c, []).append(sum(each) / len(each))  # type: ignore[arg-type]
    if not losses:
        return torch.zeros((), dtype=torch.float64), torch.zeros_like(features)
    loss = torch.stack([torch.stack(some).mean() for some in losses.values()]).mean()
    return loss.detach(), torch.autograd.grad(loss, features)[0]


def compared(case: Case, person: int, mine: int, cosines: dict[int, list[Tensor]]) -> list[int]:
    """The negative categories of one query."""
    how = case.negatives.draw
    if how.strategy == "all":
        return list(cosines)
    assert isinstance(how.count, tuple)
    low, high = (min(n, case.people.visible.shape[1] - 1) for n in how.count)
    count = low + int(uniform(how.key, person) * (high - low + 1))

    def score(other: int) -> float:
        if how.strategy == "random":
            return uniform(how.key, person, mine, other)
        values = [s.item() for s in cosines[other]]
        return max(values) if case.negatives.score == "max" else sum(values) / len(values)

    return sorted(cosines, key=lambda other: (-score(other), other))[:count]


def uniform(key: int, *counters: int) -> float:
    """splitmix64, as published (Vigna), once per counter."""
    state, mask = key, 2**64 - 1
    for counter in counters:
        state = (state + counter + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return (state >> 11) * 2.0**-53


@pytest.mark.parametrize("world", [1, 2, 3])
def test_equals_plain_python(world: int, tmp_path: Path) -> None:
    seeds = list(range(1000 * world, 1000 * world + CASES))
    found = [ours(seeds)] if world == 1 else on_ranks(ours, seeds, world=world, folder=tmp_path)
    nonzero = 0
    for i, seed in enumerate(seeds):
        case = draw(seed, world)
        loss, grad = naive(case)
        # The mean over ranks is the loss, and the gradient that an engine averages is the loss's.
        mean = torch.stack([rank[i]["loss"] for rank in found]).mean()
        returned = torch.cat([rank[i]["grad"] for rank in found]) / world
        assert abs(mean - loss) <= 1e-6, case
        assert (returned - grad).abs().max() <= 1e-6, case
        nonzero += bool(loss > 0)
    assert nonzero > CASES / 2  # visibility 0 and lone categories are among the cases, but are not the rule
