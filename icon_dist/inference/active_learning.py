"""Which instances to label next: those of which a model is unsure, unlike each other.

Farthest first (Gonzalez 1985; core-sets, Sener and Savarese, ICLR 2018), weighted by doubt: after the most doubtful
image comes, again and again, the one with the largest product of an instance's doubt and its distance to the nearest
chosen one in the space of embeddings.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray


def choose(
    doubt: Float[np.ndarray, " n"],
    embedding: Float[np.ndarray, "n m"],
    image: Int64[np.ndarray, " n"],
    *,
    count: int,
) -> NDArray[np.int64]:
    """For each of ``count`` images, best first, the instance for which it was chosen.

    ``doubt`` is 0 to 1; embeddings have length 1, so that distances are 0 (alike) to 2. Fewer come where there are
    fewer images. Equal products go by the order of the instances.
    """
    chosen: list[int] = []
    free = np.ones(len(doubt), dtype=bool)
    distance = np.ones(len(doubt))  # nothing is chosen yet: doubt alone decides
    while len(chosen) < count and free.any():
        best = int(np.argmax(np.where(free, doubt * distance, -1.0)))
        nearest = np.full(len(doubt), np.inf) if not chosen else distance
        chosen.append(best)
        own = image == image[best]
        free &= ~own
        distance = np.minimum(nearest, (1 - embedding @ embedding[own].T).min(axis=1).clip(min=0.0))
    return np.array(chosen, dtype=np.int64)
