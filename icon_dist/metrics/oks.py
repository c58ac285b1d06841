"""Object keypoint similarity."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def at_distance(
    squared: Float[np.ndarray, "*#n K"], *, area: Float[np.ndarray, "*#n"], sigmas: Float[np.ndarray, "*#n K"]
) -> Float[np.ndarray, "*#n K"]:
    """The similarity of joints at distances d, given as ``squared`` px^2: ``exp(-d^2 / (2 area (2 sigma)^2))``."""
    similar: F64 = np.exp(-squared / (2 * sigmas) ** 2 / (area[..., None] + np.spacing(1)) / 2)
    return similar


def similarity(
    xy: Float[np.ndarray, "*#n K 2"],
    other: Float[np.ndarray, "*#n K 2"],
    *,
    area: Float[np.ndarray, "*#n"],
    sigmas: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "*#n K"]:
    """That of each joint to another."""
    return at_distance(((xy - other) ** 2).sum(axis=-1), area=area, sigmas=sigmas)


def oks(
    xy: Float[np.ndarray, "*#n K 2"],
    other: Float[np.ndarray, "*#n K 2"],
    *,
    area: Float[np.ndarray, "*#n"],
    sigmas: Float[np.ndarray, " K"],
    labelled: Bool[np.ndarray, "*#n K"] | None = None,
) -> Float[np.ndarray, "*#n"]:
    """Mean :func:`similarity` of the (labelled) joints; 0 where no joint is labelled."""
    similar = similarity(xy, other, area=area, sigmas=sigmas)
    counts = np.ones(similar.shape, dtype=bool) if labelled is None else labelled
    mean: F64 = (similar * counts).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    return mean
