"""The collapse and loss-scale measurements against loops and known limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from icon_dist.losses.health import chance_loss, collapsed, gradient_ratio, mean_cosine, purity
from icon_dist.types import KeySet, Outputs


def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(5, 4, 3, generator=g, dtype=torch.float64), dim=-1)
    return features, torch.rand(5, 4, generator=g) < 0.7, torch.tensor([1, 2, 2, 3, 4])


def test_mean_cosine_is_over_all_different_visible_pairs() -> None:
    features, visible, _ = tokens()
    seen = features[visible]
    cosines = [float(a @ b) for i, a in enumerate(seen) for j, b in enumerate(seen) if i != j]
    assert mean_cosine(features, visible).item() == pytest.approx(sum(cosines) / len(cosines))


def test_purity_is_that_of_the_nearest_token_of_another_person() -> None:
    features, visible, person = tokens()
    hits = []
    for i, c in visible.nonzero().tolist():
        others = [
            (float(features[i, c] @ features[j, d]), d) for j, d in visible.nonzero().tolist() if person[i] != person[j]
        ]
        hits.append(max(others)[1] == c)
    assert purity(features, visible, person).item() == pytest.approx(sum(hits) / len(hits))


def test_limits_of_clustered_and_collapsed_embeddings() -> None:
    clusters = torch.eye(4).expand(6, 4, 4).contiguous()
    everywhere, person = torch.ones(6, 4).bool(), torch.arange(6)
    assert purity(clusters, everywhere, person) == 1
    assert mean_cosine(clusters, everywhere).item() == pytest.approx(4 * 6 * 5 / (24 * 23))
    assert mean_cosine(torch.ones(6, 4, 4) / 2, everywhere).item() == pytest.approx(1)


def test_nothing_visible_is_zero() -> None:
    features, visible, person = tokens()
    assert mean_cosine(features, visible & False) == 0
    assert purity(features, visible & False, person) == 0
    assert purity(features, visible, person * 0) == 0  # nobody else


def test_chance_loss_counts_the_negatives() -> None:
    """Three categories of 4 candidates, one of none; 2 negative categories: log(1 + 8)."""
    valid = torch.ones(4, 4).bool()
    valid[1] = False
    keys = KeySet(torch.zeros(4, 4, 2), valid, torch.zeros(4, 4, dtype=torch.int64))
    assert chance_loss([keys], categories=2).item() == pytest.approx(math.log(9))
    assert chance_loss([keys, keys], categories=3).item() == pytest.approx(math.log(17))  # only 2 others exist
    assert chance_loss([keys, keys], categories=3, most=3).item() == pytest.approx(math.log(7))  # 3 of 8 in each
    assert chance_loss([keys], categories=2, most=64).item() == pytest.approx(math.log(9))  # no more than there are
    many = KeySet(keys.features[:1].expand(16, -1, -1), valid[:1].expand(16, 4), keys.instance[:1].expand(16, 4))
    assert chance_loss([many], categories=7.5).item() == pytest.approx(math.log(31))  # drawn: 5 to 10 of 15 others
    none = KeySet(keys.features, valid & False, keys.instance)
    assert chance_loss([none], categories=2) == 0


def test_collapse_needs_both_signs() -> None:
    assert collapsed({"skcc_cosine": 0.95, "skcc_over_chance": 1.0})
    assert collapsed({"skcc_cosine": 0.1, "skcc_over_chance": 0.5, "prcc_cosine": 0.91, "prcc_over_chance": 0.96})
    assert collapsed(
        {"prcc_cosine": 0.1, "prcc_over_chance": 0.5, "net2_prcc_cosine": 0.91, "net2_prcc_over_chance": 1}
    )
    assert not collapsed({"skcc_cosine": 0.95, "skcc_over_chance": 0.6})
    assert not collapsed({"skcc_cosine": 0.3, "skcc_over_chance": 1.0})
    assert not collapsed({"heatmap": 1.0})


def test_gradient_ratio_is_that_of_the_two_parts() -> None:
    feature = torch.zeros(1, 2, 1, 1, requires_grad=True)
    tap = feature.view_as(feature)
    outputs = Outputs(torch.zeros(1, 1, 1, 1), feature=feature, tap=tap)
    assert gradient_ratio(outputs) is None
    tap.retain_grad()
    (10 * tap[0, 0].sum() + 3 * feature[0, 0].sum() + 4 * feature[0, 1].sum()).backward()
    ratio = gradient_ratio(outputs)
    assert ratio is not None
    assert ratio.item() == pytest.approx(2)  # 10 / |(3, 4)|
