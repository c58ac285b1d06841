"""Rows of the paper's tables are run once and recorded; several at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icon_dist import paper
from icon_dist.errors import ConfigError
from icon_dist.reports import paper_tables
from icon_dist.reports.paper_runs import Run, train_all
from icon_dist.reports.paper_tables import read_results
from tests.support.paths import ROOT

TINY = [
    *("data.generate=64", "optim.epochs=1", "optim.milestones=[]", "optim.batch=8", "optim.micro_batch=8"),
    *("loss.bank.warmup=2", "run.log_every=2", "eval.every=1", "eval.limit=8"),
]
ALONE = ["run.launcher=local", "run.workers=1", "run.zero=0", "data.loaders=0"]


def test_a_row_is_run_recorded_and_not_run_again(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The people to train on are drawn, as they are absent; each set that is scored is a row."""
    monkeypatch.chdir(tmp_path)  # places are relative, as in a preset, and a run keeps the absolute ones
    file = tmp_path / "results.csv"
    shutil.copytree(people / "val", tmp_path / "other")
    places = ["data.train=train", f"data.val=[{people}/val, other]", "run.dir=runs"]
    more = ["--record", str(file), "--set", *places, "data.generate=32", *TINY[1:], *ALONE]
    command = ["--run", "T5.skcc", "--cfg", "people", "--seeds", "3", *more]
    paper.main(command)
    paper.main(command)
    results = read_results(file)
    assert {(one.recipe, one.cfg, one.seed) for one in results} == {("T5.skcc", "people", 3)}
    assert all(float(one.purity) >= 0 for one in results)
    log = (tmp_path / "runs/people-T5.skcc-s3/metrics.jsonl").read_text().splitlines()
    scores = [json.loads(line)["scores"] for line in log if '"eval"' in line][-1]
    trained = [json.loads(line) for line in log if '"train"' in line]
    took = sum(next(e["step_ms"] for e in trained if e["step"] >= step) for step in range(1, trained[-1]["step"] + 1))
    assert [one.seconds for one in results] == [int(took / 1e3)] * 2
    assert len(results) == 2
    assert {one.metric: one.score for one in results} == {
        name: scores[name] for name in ("val/PCK@0.2", "other/PCK@0.2")
    }
    assert all(0 <= one.score <= 100 for one in results)
    assert capfd.readouterr().out.count("$ python -m icon_dist.train --cfg people loss.lambda_2=0") == 1

    with pytest.raises(ConfigError, match=r"with other values: loss.tau=0.1 \(was 0.07\); add run.dir=DIR to --set"):
        paper.main([*command, "loss.tau=0.1"])  # the run has that name, and other values
    assert read_results(file) == results


@pytest.mark.slow  # six processes
def test_several_at_a_time_each_after_what_it_starts_from(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.csv"
    places = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/val", f"run.dir={tmp_path}/runs"]
    rows = ["--run", "T4.pseudo_30", "T4.sup_30", "--cfg", "people", "--seeds", "0", "1", "--jobs", "2"]
    paper.main([*rows, "--record", str(file), "--set", *places, *TINY, *ALONE])
    results = read_results(file)
    assert len(results) == 4
    shown = capfd.readouterr().err
    for seed in (0, 1):
        assert [r.recipe for r in results if r.seed == seed] == ["T4.sup_30", "T4.pseudo_30"]
        assert f"people-T4.sup_30-s{seed}: complete: step " in shown
        assert f"people-T4.pseudo_30-s{seed}: complete: step " in shown


class Named(Run):
    """A run of the name ``cfg`` that is the code in ``extra``."""

    @property
    def name(self) -> str:
        return self.cfg

    @property
    def starts_from(self) -> dict[str, str]:
        return {}

    @property
    def command(self) -> list[str]:
        return ["-c", *self.extra]


class Short(Named):
    """One of a fifth of a second that leaves a file of its name, and needs those of ``extra``."""

    @property
    def starts_from(self) -> dict[str, str]:
        return {name: name for name in self.extra}

    @property
    def command(self) -> list[str]:
        needed = "".join(f"open('{name}').close(); " for name in self.extra)
        return ["-c", f"{needed}import time; time.sleep(0.2); open('{self.cfg}', 'w').close()"]


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_a_run_waits_for_those_that_it_starts_from(jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = paper_tables.read_recipes()[1]["T5.base"]
    needs = {"c": ["b"], "b": ["a"], "a": [], "d": ["a"]}
    runs = [Short(row, name, 0, extra) for name, extra in needs.items()]
    ended: list[str] = []
    train_all(runs, jobs=jobs, done=lambda run: ended.append(run.name))
    assert sorted(ended) == ["a", "b", "c", "d"]
    assert ended.index("a") < ended.index("b") < ended.index("c")
    for needed in ("e", "not trained here"):  # a run that needs itself, or another one, says what it lacks
        with pytest.raises(SystemExit) as left:
            train_all([Short(row, "e", 0, [needed])], jobs=jobs, done=lambda *_: None)
        assert left.value.code == 1


TWO_RUNS = """
import sys
from icon_dist.command_exit import run_cli
from icon_dist.reports.paper_runs import Run, train_all

class Saving(Run):
    name, command, starts_from = "saving", ["-c", sys.argv[2]], {}

run_cli(lambda _: train_all([Saving(None, "", seed, []) for seed in (0, 1)], jobs=int(sys.argv[1]), done=print))
"""
SAVING = """
import os, signal, sys, time
heard = []
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, lambda number, _: heard.append(number))
open(f"{os.getpid()}.ready", "w").close()
while not heard:
    time.sleep(0.01)
time.sleep(0.3)
open(f"{os.getpid()}.heard", "w").write(str(heard))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_signal_to_all_is_one_to_each_run(jobs: int, number: signal.Signals, code: int, tmp_path: Path) -> None:
    """A second one would end it before it has saved; a terminal and a batch system signal the whole group."""
    words = [sys.executable, "-c", TWO_RUNS, str(jobs), SAVING]
    process = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, process_group=0)
    while len([*tmp_path.glob("*.ready")]) < jobs:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(60) == code
    assert [file.read_text() for file in tmp_path.glob("*.heard")] == [str([15])] * jobs


FAILS = """
import pathlib, sys, time
while not [*pathlib.Path().glob("*.ready")]:
    time.sleep(0.01)
sys.exit("icon_dist: error: no")
"""


def test_one_that_fails_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In order: the others save."""
    monkeypatch.chdir(tmp_path)
    row = paper_tables.read_recipes()[1]["T5.base"]
    runs = [Named(row, name, 0, [code]) for name, code in {"saves": SAVING, "fails": FAILS, "waits": FAILS}.items()]
    with pytest.raises(SystemExit) as left:
        train_all(runs, jobs=2, done=lambda *_: pytest.fail("none ends well"))
    assert left.value.code == 1
    assert [file.read_text() for file in tmp_path.glob("*.heard")] == [str([15])]
    out, err = capfd.readouterr()
    assert err == "fails: icon_dist: error: no\n"
    assert out.count("$ python -c") == 2, "the third was never started"


@pytest.mark.slow  # two processes that train; what ends them is said above
def test_a_training_that_fails_ends_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.csv"
    places = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/val", f"run.dir={tmp_path}/runs"]
    rows = ["--run", "WARM.base", "--cfg", "people", "--seeds", "0", "1", "--jobs", "2", "--record", str(file)]
    folder = tmp_path / "runs/people-WARM.base-s1"
    folder.mkdir(parents=True)
    (folder / "checkpoints").write_text("not a folder")
    with pytest.raises(SystemExit) as left:
        paper.main([*rows, "--set", *places, *TINY, *ALONE, "optim.epochs=5000"])
    assert left.value.code not in (0, None)
    assert not file.exists()
    assert "people-WARM.base-s1: icon_dist: error: " in capfd.readouterr().err
