"""A sweep as a user types it: finished, prolonged, killed, refused."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from icon_dist import config as configuration
from tests.support.paths import ROOT
from tests.support.training import arguments

pytestmark = pytest.mark.ray
STUDY = "study"
SET_STATE = 6  # of a trial, in Optuna's journal
GIB = 2**30


def written(file: Path, *, space: dict[str, list[Any]], first: dict[str, Any]) -> list[str]:
    """The command of a search of one's own."""
    file.write_text(yaml.safe_dump({"space": space, "first": first}))
    return [sys.executable, "-m", "icon_dist", "sweep", str(file)]


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
    assert [t.user_attrs.get("label") for t in before] == ["first point", "preset"]
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

    third = sweep(people, tmp_path, "--trials", "4")
    text = f"{tmp_path}/{STUDY}: 4 trials done already; a larger --trials asks for more\n"
    assert third.stderr.endswith(f"\n{text}")
    assert "Ray" not in third.stderr
    assert (third.returncode, third.stdout) == (0, second.stdout)

    study = tmp_path / STUDY
    best = max((t for t in after if t.state == TrialState.COMPLETE), key=lambda t: (t.value, -t.number))
    config = configuration.load(str(study / "best.yaml"))
    assert config.loss.lambda_p == best.params["loss.lambda_p"]
    assert config.run.workers == configuration.load("demo").run.workers  # the preset's, not the trial's
    assert config.run.name == f"{study.name}-best"  # of this search alone
    assert all(Path(place).is_absolute() for place in (config.data.train, config.data.val, config.run.dir))
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
        (
            ["--workers-per-trial", "64", "optim.batch=64", "data.streams=64", "loss.bank.warmup=0"],
            7,
            "a trial needs 64 workers x 1 CPU",
        ),
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
    assert done.stderr.removeprefix("icon_dist: starting Ray on this machine\n").count("\n") == 1
    assert not (tmp_path / STUDY / "trials").exists()


Start = Callable[[list[str]], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts drivers that write to ``log``; none outlives its test."""
    with contextlib.ExitStack() as stack, (tmp_path / "log").open("ab") as out:

        def driver(line: list[str]) -> subprocess.Popen[bytes]:
            started = subprocess.Popen(line, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
            stack.callback(started.wait)
            stack.callback(started.kill)
            return started

        yield driver


def wait_for_training(driver: subprocess.Popen[bytes], folder: Path, *, since: float) -> bool:
    """Until a trial of this driver trains (a run writes its config once it is restored); False if the driver ends."""
    while driver.poll() is None:
        configs = (folder / STUDY / "trials").glob("*/config.yaml")
        if any(config.stat().st_mtime >= since for config in configs):
            return True
        time.sleep(0.05)
    return False


def actors_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that train."""
    found = []
    for child in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::ImplicitFunc" in " ".join(child.cmdline()):
                found.append(child)
    return found


def require_whole(folder: Path, *, count: int) -> None:
    """None lost, none left running, none twice: neither told twice nor trained again after it was told."""
    found = trials(folder)
    assert [t.number for t in found] == list(range(count))
    assert all(t.state.is_finished() for t in found)
    states: dict[int, list[int]] = {}
    for line in (folder / STUDY / "journal.log").read_text().splitlines():
        entry = json.loads(line)
        if entry["op_code"] == SET_STATE:
            states.setdefault(entry["trial_id"], []).append(entry["state"])
    assert len(states) == count
    for told in states.values():
        assert [TrialState(state).is_finished() for state in told] == [False] * (len(told) - 1) + [True]
    began = {f"{trial.number:04d}" for trial in found if trial.state != TrialState.FAIL}
    assert {run.name for run in (folder / STUDY / "trials").iterdir()} == began
    for trial in found:
        if trial.state == TrialState.FAIL:
            continue  # before its first step
        run = folder / STUDY / "trials" / f"{trial.number:04d}"
        assert trial.datetime_complete is not None
        assert (run / "config.yaml").stat().st_mtime <= trial.datetime_complete.timestamp()
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)


@pytest.mark.timeout(900)
def test_drivers_killed_at_random_moments(people: Path, tmp_path: Path, start: Start) -> None:
    """Ten kill -9 in the middle of twelve trials: every one ends once, in its own folder; no process trains on."""
    rng = random.Random(5)
    journal = tmp_path / STUDY / "journal.log"
    line = command(people, tmp_path, "--trials", "12", "optim.epochs=8", "optim.milestones=[6]", "eval.every=4")
    log = tmp_path / "log"
    left: list[psutil.Process] = []
    kills_of: dict[int, int] = {}  # trial -> how often it was under way
    for kill in range(10):
        since = time.time()
        driver = start(line)
        assert wait_for_training(driver, tmp_path, since=since), f"after {kill} kills:\n{log.read_text()}"
        told = journal.read_bytes().count(b"\n") + rng.randint(0, 12)  # a trial writes about ten lines
        while driver.poll() is None and journal.read_bytes().count(b"\n") < told:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        assert driver.poll() is None, f"after {kill} kills:\n{log.read_text()}"
        left += actors_of(driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        for trial in trials(tmp_path):
            kills_of[trial.number] = kills_of.get(trial.number, 0) + (trial.state == TrialState.RUNNING)
    assert sum(kills_of.values()) >= 10, "the kills came between trials"
    assert sum(count > 0 for count in kills_of.values()) >= 4, "always the same trials"
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
    assert start(line).wait() == 0, log.read_text()
    require_whole(tmp_path, count=12)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.timeout(400)
def test_a_driver_that_is_asked_to_leave(people: Path, tmp_path: Path, start: Start, number: int, code: int) -> None:
    """Nothing is left running, and the same command goes on."""
    rng = random.Random(number)
    line = command(people, tmp_path, "--trials", "4", "optim.epochs=8", "optim.milestones=[6]", "eval.every=4")
    log = tmp_path / "log"
    for _ in range(2):
        since = time.time()
        driver = start(line)
        assert wait_for_training(driver, tmp_path, since=since), log.read_text()
        time.sleep(rng.uniform(0, 2))
        left = actors_of(driver)
        driver.send_signal(number)
        assert driver.wait(60) == code, log.read_text()
        assert not psutil.wait_procs(left, timeout=30)[1]
        assert TrialState.RUNNING not in {t.state for t in trials(tmp_path)}
    assert start(line).wait() == 0, log.read_text()
    require_whole(tmp_path, count=4)


@pytest.mark.timeout(400)
def test_trials_that_go_wrong(people: Path, tmp_path: Path, start: Start) -> None:
    """A worker killed, one that diverges, one without memory: each is recorded as what it was, and the rest goes on."""
    own = written(
        tmp_path / "hard.yaml",
        space={"optim.lr": [0.004, 1e17], "loss.bank.slots": [32, 10**10]},
        first={"optim.lr": 0.004, "loss.bank.slots": 32},
    )
    given = command(people, tmp_path, "--trials", "9", "optim.epochs=8", "optim.milestones=[6]", "eval.every=4")
    line = [*own, *given[2:], "--max-concurrent", "1"]
    log = tmp_path / "log"
    since = time.time()
    driver = start(line)
    assert wait_for_training(driver, tmp_path, since=since), log.read_text()
    actors = actors_of(driver)
    assert len(actors) == 1
    actors[0].kill()
    assert driver.wait(300) == 0, log.read_text()
    assert (
        "trial 0: process lost (The actor is dead because its worker process has died); it goes on" in log.read_text()
    )
    found = trials(tmp_path)
    expected = {
        (0.004, 32): ("complete", TrialState.COMPLETE, ""),
        (1e17, 32): ("diverged", TrialState.PRUNED, "not finite"),
        (0.004, 10**10): ("failed", TrialState.FAIL, "out of memory: can't allocate memory"),
        (1e17, 10**10): ("failed", TrialState.FAIL, "out of memory: can't allocate memory"),
    }
    for trial in found:
        ended, state, why = expected[trial.params["optim.lr"], trial.params["loss.bank.slots"]]
        assert (trial.user_attrs["ended"], trial.state) == (ended, state)
        assert why in trial.user_attrs.get("why", "")
    assert {t.user_attrs["ended"] for t in found} == {"complete", "diverged", "failed"}
    require_whole(tmp_path, count=9)


@pytest.mark.timeout(400)
def test_ray_kills_a_trial_for_memory(people: Path, tmp_path: Path, start: Start, monkeypatch: Any) -> None:
    """A head of four billion weights: first fewer run at a time, then the one that is alone is the one that failed."""
    own = written(tmp_path / "fat.yaml", space={"model.embedding": [64, 2**16]}, first={"model.embedding": 64})
    memory = psutil.virtual_memory()
    if memory.available < 8 * GIB:
        pytest.skip("needs 8 GiB of free memory")
    monkeypatch.setenv("RAY_memory_usage_threshold", str((memory.total - memory.available + 5 * GIB) / memory.total))
    given = command(people, tmp_path, "--trials", "2", "--max-concurrent", "2", f"model.embedding={2**16}")
    assert start([*own, *given[2:]]).wait() == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "out of memory; going on with 1 at a time" in log
    assert "Traceback" not in log
    small, fat = trials(tmp_path)
    assert (small.params["model.embedding"], small.user_attrs["ended"]) == (64, "complete")
    assert (fat.user_attrs["ended"], fat.state) == ("failed", TrialState.FAIL)
    assert fat.user_attrs["why"] == "out of memory: its process was killed"


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
    assert {t.user_attrs["of"] for t in trials(tmp_path, "confirm")} >= {"first point", "no contrast"}
    assert "gain over" in done.stdout
    again = sweep(people, tmp_path, *more)
    assert "Ray" not in again.stderr
    assert (again.returncode, again.stdout) == (0, done.stdout)
