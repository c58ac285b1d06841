"""What a step costs when ranks are added: the document is what the figures say, and the figures are counted anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from cluster import scale
from tests.support.paths import ROOT

FOLDER = ROOT / "cluster"
COUNTED: dict[str, dict[str, int]] = json.loads((FOLDER / "scale.json").read_text())
KINDS = ("gradients", "bank", "buffers", "sums")


def test_the_document_is_what_the_script_writes() -> None:
    assert scale.PAGE.read_text() == scale.document(COUNTED), "run python cluster/scale.py"
    assert scale.FIGURE.read_text() == scale.plot(scale.COCO), "run python cluster/scale.py"
    assert "@" not in scale.PAGE.read_text()
    lines = [e for e in ET.parse(scale.FIGURE).getroot() if e.tag.endswith("polyline")]
    assert len(lines) == 4
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) == len(scale.WORLDS)
        assert all(80 <= x <= 640 and 20 <= y <= 320 for x, y in points)


def test_what_a_rank_receives_does_not_grow() -> None:
    assert sorted(map(int, COUNTED)) == [1, 2, 4, 8, 16]
    assert COUNTED["1"] == {}
    for world in ("4", "8", "16"):
        for key, value in COUNTED["2"].items():
            if key != "bytes gradients":  # padded by DeepSpeed
                assert COUNTED[world][key] == value, key


@pytest.mark.parametrize("world", [2, 4, 8, 16])
def test_the_formulas_are_what_was_counted(world: int) -> None:
    expected, seen = scale.received(scale.COUNTED, world), COUNTED[str(world)]
    for kind in ("bank", "buffers", "sums"):
        assert seen[f"bytes {kind}"] == expected[kind]
    assert 0 <= seen["bytes gradients"] - expected["gradients"] <= 16 * world


def test_a_ring_carries_nothing_alone_and_at_most_its_factor() -> None:
    assert scale.sent(scale.COCO, 1) == {}
    for world in scale.WORLDS:
        received, sent = scale.received(scale.COCO, world), scale.sent(scale.COCO, world)
        for kind, factor in (("gradients", 1.5), ("bank", 1), ("buffers", 2), ("sums", 2)):
            assert sent[kind] == pytest.approx(factor * received[kind] * (world - 1) / world)


def recounted(*worlds: int) -> dict[str, Any]:
    command = [sys.executable, "cluster/count_messages.py", *map(str, worlds)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, check=True, text=True
    )
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


@pytest.mark.slow
def test_two_and_four_ranks_counted_anew() -> None:
    assert recounted(2, 4) == {world: COUNTED[world] for world in ("2", "4")}
