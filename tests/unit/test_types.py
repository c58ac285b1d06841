"""Scores as people read them."""

from __future__ import annotations

import pytest

from icon_dist.types import percent, score_text


@pytest.mark.parametrize("name", ["AP", "AP .75", "AR (M)", "net2_AP", "mean_AP", "coco/AP", "net2_coco/train/AP .5"])
def test_ap_is_kept_in_shares_whosesoever_it_is(name: str) -> None:
    assert percent(name, 0.5) == 50.0
    assert score_text(name, 0.4567) == "45.7"
    assert score_text(name, -1) == "-"


@pytest.mark.parametrize("name", ["PCK@0.2", "PCKh", "lsp/PCK@0.2", "net2_PCK@0.2", "left_ankle", "APE", "lsp/nose"])
def test_other_scores_are_percent_already(name: str) -> None:
    assert percent(name, 45.67) == 45.67
    assert score_text(name, 45.67) == "45.7"
