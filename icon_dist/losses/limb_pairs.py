"""What PRCC compares (``loss.relation``): limb pairs, or chains of more joints along the bones of a skeleton.

The limbs of a data set are in its skeleton (``datasets/``); how tokens are made of them, Eq. 2-3, is in ``tokens.py``,
and L_PRCC itself, Eq. 4, in ``icon.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from icon_dist.types import Skeleton

ORDERS = {"pairs": 2, "triplets": 3, "quadruples": 4}  # joints of a token


def relations(skeleton: Skeleton, relation: str) -> list[tuple[int, ...]]:
    """What PRCC compares: the limbs of ``skeleton`` for ``pairs``, else chains along its limbs and bones."""
    if relation == "pairs":
        return [*skeleton.limbs]
    return chains([*skeleton.limbs, *skeleton.bones], ORDERS[relation])


def chains(bones: Sequence[tuple[int, int]], order: int) -> list[tuple[int, ...]]:
    """Every chain of ``order`` different joints that follow each other along ``bones``, each once and in order.

    >>> chains([(0, 1), (1, 2), (1, 3)], 3)
    [(0, 1, 2), (0, 1, 3), (2, 1, 3)]
    """
    near: dict[int, set[int]] = {}
    for a, b in bones:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)

    def longer(chain: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(chain) == order:
            yield chain
            return
        for joint in sorted(near[chain[-1]].difference(chain)):
            yield from longer((*chain, joint))

    return [chain for first in sorted(near) for chain in longer((first,)) if chain[0] < chain[-1]]
