"""A few faults of every kind; ``python -m tests.adversarial.faults`` breaks as many as one has time for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.adversarial.faults.campaign import CASES, Campaign


@pytest.fixture(scope="module")
def campaign(people: Path, s3_endpoint: str, module_path: Path) -> Campaign:
    del s3_endpoint
    return Campaign(people, module_path)


@pytest.mark.slow  # a minute or more; each promise has a fast test of its own
@pytest.mark.parametrize("kind", CASES)
def test_nothing_is_lost(campaign: Campaign, kind: str) -> None:
    for number in range(1 if kind in ("bad s3", "outage", "ray") else 20 if kind == "corrupt" else 3):
        print(CASES[kind][0](campaign, random.Random(f"{kind} {number}")))
