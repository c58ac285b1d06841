"""Numbers of the embedding picture against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_samples

from icon_dist.metrics import embedding


def clusters(seed: int, *, spread: float, classes: int = 5, each: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(classes), each))
    return rng.normal(size=(classes, 12))[label] + spread * rng.normal(size=(len(label), 12)), label


@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
def test_silhouette_like_scikit_learn(spread: float) -> None:
    x, label = clusters(0, spread=spread)
    label[0] = 9  # alone in its class
    np.testing.assert_allclose(embedding.silhouette(x, label), silhouette_samples(x, label, metric="cosine"), atol=1e-9)
    assert embedding.silhouette(x, np.zeros_like(label)).tolist() == [0.0] * len(x)


def test_purity_like_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "ROWS", 7)
    x, label = clusters(1, spread=1.0)
    person = np.random.default_rng(2).integers(0, 20, len(label))
    for people in (None, person):
        for i, value in enumerate(embedding.purity(x, label, person=people)):
            cosine = [
                (float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])), label[j] == label[i])
                for j in range(len(x))
                if j != i and (people is None or people[j] != people[i])
            ]
            nearest = sorted(cosine, reverse=True)[:10]
            assert value == pytest.approx(np.mean([same for _, same in nearest]))
    far = embedding.purity(x, label, person=np.zeros_like(label))
    assert np.isnan(far).all(), "nobody else there"
    assert embedding.purity(x[:4], np.zeros(4, int)).tolist() == [1.0] * 4  # fewer than ten others


def test_separate_clusters_are_pure_and_mixed_ones_at_chance() -> None:
    for spread, low, high in ((0.01, 0.999, 1.0), (1e6, 0.1, 0.3)):
        x, label = clusters(3, spread=spread, each=200)
        assert low <= embedding.purity(x, label).mean() <= high


def test_principal_components_like_scikit_learn() -> None:
    x, _ = clusters(4, spread=0.3)
    ours, share = embedding.pca(x, components=3)
    theirs = PCA(3).fit(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.transform(x)), atol=1e-8)
    assert share == pytest.approx(theirs.explained_variance_ratio_.sum())
    assert embedding.pca(x)[0].shape == (len(x), 12)
    assert embedding.pca(-x, components=2)[0] == pytest.approx(-ours[:, :2])  # the signs do not depend on the solver


def test_a_sample_is_even_and_the_same_each_time() -> None:
    label = np.repeat([0, 1, 2], [3, 50, 20])
    rows = embedding.sample(label, per_class=10)
    assert np.bincount(label[rows]).tolist() == [3, 10, 10]
    assert rows.tolist() == sorted(set(rows.tolist())) == embedding.sample(label, per_class=10).tolist()


def test_tsne_keeps_clusters_together() -> None:
    x, label = clusters(5, spread=0.01, classes=3, each=12)
    plane = embedding.tsne(embedding.pca(x)[0])
    centers = np.stack([plane[label == c].mean(axis=0) for c in range(3)])
    nearest = np.linalg.norm(plane[:, None] - centers, axis=2).argmin(axis=1)
    assert nearest.tolist() == label.tolist()
