"""The check of a GPU, rehearsed on the CPU: no minute of a GPU may be lost to a slip of the pen."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from icon_dist import config as configuration
from tests.gpu import train
from tests.gpu.correct import waited
from tests.gpu.setting import Setting

ROOT = Path(__file__).resolve().parent.parent.parent
PHASES = ("ground", "correct", "speed", "data", "graphs", "train")


@pytest.mark.timeout(900)  # of a machine that is busy
@pytest.mark.parametrize(
    "phases", [("ground", "correct", "data"), pytest.param(PHASES, marks=pytest.mark.slow)], ids=["short", "all"]
)
def test_phases_on_the_cpu(people: Path, tmp_path: Path, phases: tuple[str, ...]) -> None:
    options = {"--device": "cpu", "--budget": "3000", "--data": str(people), "--out": str(tmp_path)}
    words = [word for pair in options.items() for word in pair]
    command = [sys.executable, "tests/gpu/check.py", "--tiny", "--phases", ",".join(phases), *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    values = {(row["phase"], row["name"]): row["value"] for row in rows}
    assert {phase for phase, _ in values} == set(phases)
    assert not {name: value for name, value in values.items() if value in ("fails", "left out")}
    assert {row["ok"] for row in rows} == {True, None}
    assert values["correct", "NaN step, skipped"] == 1
    if "train" in phases:
        assert values["train", "epochs without contrast"] == 1
        assert "compiled and ran one step" in (tmp_path / "compile.log").read_text()
    table = ended.stdout.splitlines()[-len(rows) :]
    assert all(row["name"] in line for row, line in zip(rows, table, strict=True))


def test_only_what_waits_is_counted() -> None:
    """Both are torch's words: of its C++, and of the mode itself when it is first switched on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations",
            stacklevel=1,
        )
        for _ in range(2):
            warnings.warn(
                "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:155.)", stacklevel=1
            )
    places = waited(caught)
    assert len(places) == 2
    assert len({*places}) == 1
    assert places[0].startswith("test_check.py:")


@pytest.mark.parametrize("tiny", [True, False])
def test_the_runs_are_such_that_the_rules_allow(people: Path, tmp_path: Path, tiny: bool) -> None:
    for device in ("cpu", "cuda"):
        args = argparse.Namespace(device=device, tiny=tiny, data=people, runs=str(tmp_path), seed=0)
        for weight in (0.0, train.CONTRAST):
            preset, name, *overrides = train.words(args, "with", 2, weight)
            assert preset == "--cfg"
            configuration.load_own(name, overrides)


def test_the_run_with_graphs_is_one_that_the_rules_allow(people: Path, tmp_path: Path) -> None:
    """It needs a GPU: on the CPU it is not rehearsed."""
    setting = Setting("cuda", tiny=False, data=people, out=tmp_path, scratch=tmp_path, ends=0.0)
    preset, name, *overrides = train.with_graphs(setting)
    assert preset == "--cfg"
    config, _ = configuration.load_own(name, overrides)
    assert config.run.graph
    assert config.data.resident == "always"
    assert config.run.gpus_per_worker == 1
