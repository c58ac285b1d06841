"""What the command ``evaluate`` says of scores that deserve a second look."""

from __future__ import annotations

import pytest

from icon_dist.reports import evaluation
from tests.support import small_sets


@pytest.mark.parametrize(
    ("ap", "joints", "says"),
    [
        (0.0, 17, ["AP is 0: none of 1 pose is near a person's"]),
        (0.00004, 17, ["AP is 0: "]),
        (0.5, 17, []),
        (0.5, 1, ["poses of one joint have no size"]),
    ],
)
def test_scores_that_deserve_a_second_look(ap: float, joints: int, says: list[str]) -> None:
    shape = small_sets.skeleton("it", joints=joints)
    texts = list(evaluation.doubts({"AP": ap, "AR": 0.1}, shape, poses=1))
    assert len(texts) == len(says)
    assert all(text.startswith(start) for text, start in zip(texts, says, strict=True))
