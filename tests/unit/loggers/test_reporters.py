"""``run.report``: what a service is told, by packages of their names that write down what they are called with."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icon_dist.errors import ClusterError
from icon_dist.loggers import reporters
from icon_dist.loggers.events import Event, Tick
from icon_dist.loggers.logger import Logger
from tests.support.progress import Log, evaluation, start, train

# The packages are not among ours: a package of that name whose every call is a line in calls.jsonl.
RECORDER = """
import json, pathlib

class Called:
    def __init__(self, name):
        self.name = name
        self.info, self.run_id = self, "run-1"
    def __getattr__(self, name):
        return Called(name)
    def __call__(self, *given, **named):
        with open({calls!r}, "a") as file:
            file.write(json.dumps([self.name, given, named]) + "\\n")
        if self.name in {failing!r}:
            raise ConnectionError("the service is away")
        return [] if self.name == "search_runs" else Called("run")

def __getattr__(name):
    return Called(name)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes such a package; what it is called with so far."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    made = []

    def make(service: str, *failing: str) -> Any:
        file = tmp_path / f"{service}.jsonl"
        (folder / f"{service}.py").write_text(RECORDER.format(calls=str(file), failing=failing))
        importlib.invalidate_caches()
        made.append(service)
        return lambda: [json.loads(line) for line in file.read_text().splitlines()]

    yield make
    for service in made:
        sys.modules.pop(service, None)


def told(service: str, run: Path, *, out: Log | None = None) -> None:
    """A run of two events, to this service."""
    services = reporters.packages([service])
    listening = reporters.start(services, run_uri=str(run / "w48"), config={"run": {"name": "w48"}})
    logger = Logger(str(run / "w48"), out=out or Log(), reporters=listening)
    events: list[Event] = [start(), Tick(1, 0.1), train(1), evaluation(2)]
    for event in events:
        logger(event)
    logger.close()
    logger.close()


VALUES = {
    "train/epoch": 0.1,
    "train/total": 2.0,
    "train/heatmap": 1.0,
    "train/skcc": 3.0,
    "train/prcc": 4.0,
    "train/scale": 0.5,
    "train/lr": 1e-3,
}
SCORES = {"eval/PCK@0.2": 61.5, "eval/head": 80.0}


@pytest.mark.parametrize("service", ["wandb", "trackio"])
def test_a_service_is_told_numbers_by_step(service: str, calls: Any, tmp_path: Path) -> None:
    read = calls(service)
    told(service, tmp_path)
    (first, *logged, last) = read()
    assert (first[0], first[2]["project"], first[2]["resume"]) == ("init", "icon_dist", "allow")
    assert first[2]["config"] == {"run": {"name": "w48"}}
    identity = first[2]["id" if service == "wandb" else "name"]
    assert identity.startswith("w48-")
    assert logged == [["log", [VALUES], {"step": 1}], ["log", [SCORES], {"step": 2}]]
    assert last == ["finish", [], {}]
    told(service, tmp_path)
    assert read()[len(logged) + 2][2] == first[2], "the same run again"


def test_mlflow_is_told_the_same_in_names_that_it_takes(calls: Any, tmp_path: Path) -> None:
    read = calls("mlflow")
    told("mlflow", tmp_path)
    names = [name for name, _, _ in read()]
    assert names == [
        *("set_experiment", "search_runs", "start_run", "log_dict", "log_metrics", "log_metrics", "end_run"),
    ]
    tag = read()[2][2]["tags"]["icon_dist_run"]
    assert read()[1][2]["filter_string"] == f"tags.icon_dist_run = '{tag}'"
    assert read()[5][1:] == [[{"eval/PCK_0.2": 61.5, "eval/head": 80.0}], {"step": 2}]


def test_a_service_that_goes_away_ends_no_run(calls: Any, tmp_path: Path) -> None:
    read, out = calls("wandb", "log"), Log()
    told("wandb", tmp_path, out=out)
    assert [name for name, _, _ in read()] == ["init", "log"]
    assert "warning: wandb is told nothing more: the service is away\n" in out.text()


def test_a_service_that_refuses_is_said_before_anything_starts(calls: Any, tmp_path: Path) -> None:
    calls("wandb", "init")
    with pytest.raises(ClusterError, match=r"^run\.report=wandb: the service is away; mend it, or leave"):
        told("wandb", tmp_path)


def test_services_that_have_begun_end_with_one_that_refuses(calls: Any, tmp_path: Path) -> None:
    read = calls("wandb")
    calls("trackio", "init")
    services = reporters.packages(["wandb", "trackio"])
    with pytest.raises(ClusterError, match=r"^run\.report=trackio: "):
        reporters.start(services, run_uri=str(tmp_path / "w48"), config={})
    assert [name for name, _, _ in read() if name != "trackio"][:2] == ["init", "finish"]


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(ClusterError, match=r"^run\.report=trackio: needs trackio, .*; pip install trackio$"):
        reporters.packages(["trackio"])
