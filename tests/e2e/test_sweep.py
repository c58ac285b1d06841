"""A sweep as a user types it: finished, prolonged, killed, refused."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from icon_dist import config as configuration
from tests.conftest import ROOT
from tests.e2e.test_ray import arguments

pytestmark = pytest.mark.ray
STUDY = "study"


def command(people: Path, folder: Path, *more: str, script: str = "tune_lambdas") -> list[str]:
    """The tiny run of the other tests, with contrast from the start and two epochs."""
    given = arguments(people, folder, optim__epochs=2, optim__milestones=(1,))
    overrides = [item for item in given if "=" in item]
    return [sys.executable, f"sweeps/{script}.py", "--cfg", "demo", "--study", str(folder / STUDY), *overrides, *more]


def sweep(people: Path, folder: Path, *more: str, script: str = "tune_lambdas") -> subprocess.CompletedProcess[str]:
    line = command(people, folder, *more, script=script)
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def trials(folder: Path, study: str = "sweep") -> list[FrozenTrial]:
    """As optuna-dashboard reads them."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STUDY / "journal.log"))
    return optuna.load_study(study_name=study, storage=optuna.storages.JournalStorage(backend)).trials


@pytest.mark.timeout(280)
def test_a_study_and_two_more(people: Path, tmp_path: Path) -> None:
    first = sweep(people, tmp_path, "--trials", "2")
    assert first.returncode == 0, first.stderr
    before = trials(tmp_path)
    assert [t.user_attrs.get("label") for t in before] == ["paper", "preset"]
    assert before[0].params == {"loss.lambda_1": 0.3, "loss.lambda_2": 0.7, "loss.lambda_p": 1.0}
    assert {t.state for t in before} == {TrialState.COMPLETE}

    second = sweep(people, tmp_path, "--trials", "4")
    assert second.returncode == 0, second.stderr
    assert second.stderr.count(" begins: ") == 2
    after = trials(tmp_path)
    assert [(t.number, t.value, t.datetime_complete) for t in after[:2]] == [
        (t.number, t.value, t.datetime_complete) for t in before
    ]
    assert len(after) == 4
    assert all(t.state.is_finished() for t in after)

    study = tmp_path / STUDY
    best = max((t for t in after if t.state == TrialState.COMPLETE), key=lambda t: (t.value, -t.number))
    config = configuration.load(str(study / "best.yaml"))
    assert config.loss.lambda_p == best.params["loss.lambda_p"]
    assert config.run.workers == configuration.load("demo").run.workers  # the preset's, not the trial's
    table = list(csv.DictReader((study / "trials.csv").read_text().splitlines()))
    assert [float(row["PCK@0.2"]) for row in table] == [t.user_attrs["score"] for t in after]
    for row in table:
        saved = yaml.safe_load((study / row["run"] / "config.yaml").read_text())
        assert saved["loss"]["lambda_p"] == pytest.approx(float(row["loss.lambda_p"]))
    page = (study / "sweep.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert all(f'href="{row["run"]}/metrics.jsonl"' in page for row in table)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--workers-per-trial", "64", "optim.batch=64", "data.streams=64"], 7, "a trial needs 64 workers x 1 CPU"),
        (["data.val="], 2, "data.val is empty"),
        (["loss.lamda_1=1"], 2, "lambda_1"),
    ],
)
@pytest.mark.timeout(120)
def test_what_cannot_work_is_one_line_before_any_trial(
    people: Path, tmp_path: Path, more: list[str], code: int, words: str
) -> None:
    done = sweep(people, tmp_path, *more)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / STUDY / "trials").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drivers_killed_at_random_moments(people: Path, tmp_path: Path) -> None:
    """None lost, none left running, no finished one run again; a trial goes on in its own run directory."""
    rng = random.Random(0)
    line = command(people, tmp_path, "--trials", "8")
    for _ in range(4):
        driver = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(5, 30))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = trials(tmp_path)
    assert [t.number for t in after] == list(range(8))
    assert all(t.state.is_finished() for t in after)
    log = (tmp_path / STUDY / "journal.log").read_text().splitlines()
    assert len(log) == len(set(log)), "a line twice"
    assert len(list((tmp_path / STUDY / "trials").iterdir())) == 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_worker_groups_and_repeats_on_s3(people: Path, tmp_path: Path, s3: str) -> None:
    """Two workers a trial, the journal mirrored, the best confirmed; what the mirror holds is a whole study."""
    more = ["--trials", "2", "--workers-per-trial", "2", "--study", f"{s3}/study", "--confirm", "1"]
    done = sweep(people, tmp_path, *more)
    assert done.returncode == 0, done.stderr
    from icon_dist import storage

    names = storage.listing(f"{s3}/study")
    assert {"best.yaml", "sweep.html", "trials.csv", "journal.log", "trials/0000/config.yaml"} <= set(names)
    (tmp_path / STUDY).mkdir(exist_ok=True)
    storage.copy_to(f"{s3}/study/journal.log", tmp_path / STUDY / "journal.log")
    assert {t.state for t in trials(tmp_path)} == {TrialState.COMPLETE}
    assert {t.user_attrs["of"] for t in trials(tmp_path, "confirm")} >= {"paper", "no contrast"}
    assert "gain over" in done.stdout
