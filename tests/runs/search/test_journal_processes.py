"""A study that another process holds, or reads."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest

from icon_dist.errors import ClusterError
from icon_dist.search.journal import NAME, Journal
from tests.support.paths import ROOT
from tests.support.s3 import free_port
from tests.support.studies import SPACE, study_of


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_two_drivers_of_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    script = f"""
import time
from icon_dist.search.journal import Journal
held = Journal({str(folder)!r})
print(1, flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(
            ClusterError, match=r"study: is being written by pid \d+ .*; wait for its end, or give another --study"
        ):
            Journal(str(folder))
    finally:
        other.kill()
        other.wait()
        other.communicate()
    with Journal(str(folder)):  # the lock died with its process
        pass


def test_optunas_dashboard_opens_it(tmp_path: Path) -> None:
    """The command of the README, asked over HTTP, while a driver holds the study."""
    with Journal(str(tmp_path)) as journal:
        study = study_of(journal)
        study.tell(study.ask(SPACE), 2.0)
        study.ask(SPACE)
        port = free_port()
        command = [Path(sys.executable).with_name("optuna-dashboard"), tmp_path / NAME, "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert [one["study_name"] for one in asked(port, "studies", server)["study_summaries"]] == ["sweep"]
            found = asked(port, "studies/0?after=0", server)["trials"]
        finally:
            server.kill()
            server.wait()
    assert [(t["state"], t.get("values")) for t in found] == [("Complete", [2.0]), ("Running", None)]


def asked(port: int, what: str, server: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{what}", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
