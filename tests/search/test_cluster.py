"""Which trials fit on which nodes."""

from __future__ import annotations

import pytest

from icon_dist.errors import ClusterError
from icon_dist.search.cluster import Need, trials_at_once


@pytest.mark.parametrize(
    ("need", "nodes", "fit"),
    [
        (Need(1, 1, 0), [{"CPU": 2}], 2),
        (Need(2, 1, 0), [{"CPU": 2}], 1),
        (Need(1, 4, 1), [{"CPU": 64, "GPU": 8}, {"CPU": 16, "GPU": 8}], 12),  # the second has CPUs for 4
        (Need(4, 2, 0), [{"CPU": 5}, {"CPU": 5}], 1),  # 2 workers on each: no worker spans nodes
        (Need(1, 1, 0), [{"memory": 1}, {"CPU": 1}], 1),
    ],
)
def test_room(need: Need, nodes: list[dict[str, float]], fit: int) -> None:
    assert trials_at_once(need, nodes) == fit


@pytest.mark.parametrize(
    ("need", "nodes"),
    [(Need(3, 1, 0), [{"CPU": 2}]), (Need(1, 4, 0), [{"CPU": 2}, {"CPU": 2}]), (Need(1, 1, 1), [{"CPU": 8}])],
)
def test_too_small_is_one_line_with_a_fix(need: Need, nodes: list[dict[str, float]]) -> None:
    with pytest.raises(ClusterError, match=r"a trial needs \d workers? x .* the cluster has .* lower --workers"):
        trials_at_once(need, nodes)
