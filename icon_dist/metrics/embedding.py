"""How well the encoder's features tell joints apart (paper Fig. 5).

The numbers are exact, on the features as they are; the picture (t-SNE of 50 principal components) is only a picture.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from icon_dist.errors import needed_for

COMPONENTS = 50
NEIGHBORS = 10
ROWS = 512  # of the similarity matrix at once
F64 = NDArray[np.float64]


def pca(features: Float[np.ndarray, "n D"], *, components: int = COMPONENTS) -> tuple[Float[np.ndarray, "n c"], float]:
    """Coordinates along the first principal components (fewer if there are fewer), and their share of the variance.

    The sign of a component is that of its largest coefficient, so that the same features give the same picture.
    """
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    axes = axes[:components]
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
    variance = singular**2
    kept = variance[:components].sum() / max(variance.sum(), np.finfo(float).tiny)
    return centered @ axes.T, float(kept)


def silhouette(features: Float[np.ndarray, "n D"], label: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Per sample ``(b - a) / max(a, b)`` of cosine distances (Rousseeuw, 1987).

    a: mean distance to its own class, b: to the nearest other class. 0 for the only sample of a class; as in
    scikit-learn. With one class there is nothing to tell apart: 0.
    """
    unit = _unit(features)
    classes, index = np.unique(label, return_inverse=True)
    count = np.bincount(index, minlength=len(classes)).astype(np.float64)
    if len(classes) < 2:
        return np.zeros(len(label))
    # The mean cosine distance to a class is one minus the product with the mean of its unit vectors.
    totals = np.zeros((len(classes), unit.shape[1]))
    np.add.at(totals, index, unit)
    distance = count - unit @ totals.T  # [n, classes], sums; a sample is at 0 from itself
    own = np.arange(len(label)), index
    inside = distance[own] / np.maximum(count[index] - 1, 1)
    means = distance / count
    means[own] = np.inf
    nearest = means.min(axis=1)
    scale = np.maximum(np.maximum(inside, nearest), np.finfo(float).tiny)
    value: F64 = np.where(count[index] > 1, (nearest - inside) / scale, 0.0)
    return value


def purity(
    features: Float[np.ndarray, "n D"],
    label: Int64[np.ndarray, " n"],
    *,
    neighbors: int = NEIGHBORS,
    person: Int64[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Per sample the share of its nearest samples by cosine that are of its class; itself does not count.

    ``person``: nor do samples of the same person, whose joints lie in one photo side by side. Fewer than
    ``neighbors`` are taken where there are fewer; NaN where there is none.
    """
    unit = _unit(features)
    same = np.full(len(label), np.nan)
    number = np.arange(len(label))
    for start in range(0, len(label), ROWS):
        rows = slice(start, start + ROWS)
        cosine = unit[rows] @ unit.T
        excluded = number == number[rows, None]
        if person is not None:
            excluded |= person[rows, None] == person
        cosine[excluded] = -np.inf
        k = min(neighbors, len(label))
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        counts = np.isfinite(np.take_along_axis(cosine, nearest, axis=1))
        hits = ((label[nearest] == label[rows, None]) & counts).sum(axis=1)
        same[rows] = np.where(counts.any(axis=1), hits / np.maximum(counts.sum(axis=1), 1), np.nan)
    return same


def sample(label: Int64[np.ndarray, " n"], *, per_class: int, seed: int = 0) -> Int64[np.ndarray, " rows"]:
    """At most ``per_class`` random rows of each class, ascending."""
    shuffled = np.random.default_rng(seed).permutation(len(label))
    chosen = [shuffled[label[shuffled] == number][:per_class] for number in np.unique(label)]
    rows: NDArray[np.int64] = np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
    return rows


def tsne(coordinates: Float[np.ndarray, "n c"], *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """The picture of ``coordinates``, by scikit-learn (van der Maaten, JMLR 2014)."""
    require_tsne()
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(coordinates) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(coordinates)
    return np.asarray(plane, np.float64)


def has_tsne() -> bool:
    """Whether :func:`tsne` can draw its picture here."""
    return importlib.util.find_spec("sklearn") is not None


def require_tsne() -> None:
    """ClusterError now rather than after an evaluation."""
    with needed_for("--diagnose: the t-SNE picture", "'icon_dist[diagnose]'"):
        import sklearn.manifold  # noqa: F401


def _unit(features: Float[np.ndarray, "n D"]) -> F64:
    rows = features.astype(np.float64)
    unit: F64 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
    return unit
