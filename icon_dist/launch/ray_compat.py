"""Members of Ray without a public name, in one place: ``tests/system/test_ray_nodes.py`` says what is relied on."""

from __future__ import annotations

import ray


def draining_nodes() -> set[str]:
    """Ids of the nodes that the cluster has announced to take away: a spot instance, a scale-down.

    Ray Train's public notice reaches a worker by a collective of its own at every question; this is what it reads.
    """
    return set(ray._private.state.state.get_draining_nodes())
