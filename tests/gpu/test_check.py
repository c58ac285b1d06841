"""The check of a GPU, rehearsed on the CPU: no minute of a GPU may be lost to a slip of the pen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PHASES = ("ground", "correct", "speed", "data", "train")


@pytest.mark.timeout(900)  # of a machine that is busy
def test_every_phase_on_the_cpu(people: Path, tmp_path: Path) -> None:
    options = {"--device": "cpu", "--budget": "3000", "--data": str(people), "--out": str(tmp_path)}
    words = [word for pair in options.items() for word in pair]
    ended = subprocess.run(
        [sys.executable, "tests/gpu/check.py", "--tiny", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    values = {(row["phase"], row["name"]): row["value"] for row in rows}
    assert {phase for phase, _ in values} == set(PHASES)
    assert not {name: value for name, value in values.items() if value in ("fails", "failed", "left out")}
    assert {row["ok"] for row in rows} == {True, None}
    assert values["correct", "NaN step, skipped"] == 1
    assert values["train", "epochs without contrast"] == 1
    assert "compiled and ran one step" in (tmp_path / "compile.log").read_text()
    table = ended.stdout.splitlines()[-len(rows) :]
    assert all(row["name"] in line for row, line in zip(rows, table, strict=True))
