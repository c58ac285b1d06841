"""The page of a sweep: nothing from outside, and nothing that data could smuggle in."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.support.sweep_pages import rows, written


@pytest.mark.parametrize("count", [0, 1, 2, 20])
@pytest.mark.parametrize("cost", [False, True])
def test_it_needs_nobody_and_runs_nothing(count: int, cost: bool) -> None:
    html = written(count, cost=cost)
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|<script|<i>|<b></|@import|url\(|src=", html)
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == {0: 0, 1: 4, 2: 6, 20: 6}[count] + (cost and count > 0)
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert ("It takes 8 whole runs" in html) == (count < 9)


def test_whole_runs_set_the_scale() -> None:
    """A trial that was stopped at a score of 9 does not push those around 60 into one line."""
    found = rows(12)
    history = written(12).split("<h2>History</h2>")[1].split("</svg>")[0]
    height = {
        int(re.findall(r"\d+", title)[0]): float(y)
        for y, title in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"[^>]*><title>(trial \d+)', history)
    }
    whole = [height[r.number] for r in found if r.state == "complete" and r.number]
    assert max(whole) - min(whole) > 150
    assert all(height[r.number] > max(whole) for r in found if r.state == "stopped")


def test_of_one_seed_there_is_no_interval() -> None:
    assert "<td>60.50 ± 6.35</td>" in written(20)  # Student's t of 1 degree, 12.706, times .707 / sqrt 2
    single = written(20, seeds=1)
    assert "<td>60.00</td>" in single
    assert ">+2.00</td>" in single, "the gain over the first point"
    assert "nan" not in single
