"""Two commands at one run: who only reads may, a second writer is refused, and one that stood still writes no more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist import fetch, storage, train
from icon_dist.checkpoints import manifest
from icon_dist.errors import DataError, TakenError
from icon_dist.shards.manifest import BUILDING
from icon_dist.shards.shard_set import open_shards
from icon_dist.storage import lock, lock_owner
from tests.support.paths import ROOT
from tests.support.training import tiny

HASTY = """
import sys
from icon_dist import train
from icon_dist.command_exit import run_cli
from icon_dist.storage import lock
from icon_dist.training import driver
lock.FIRST_BEAT_S = lock.BEAT_S = 0.1
driver.LOOP = sys.argv.pop(1)
run_cli(train.main)
"""


def start(loop: str, file: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        command = [sys.executable, "-W", "ignore", "-c", HASTY, loop, "--cfg", str(file)]
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)


def contents(run: Path) -> dict[str, bytes]:
    names = storage.listing(str(run))
    return {name: (run / name).read_bytes() for name in names if not name.endswith(".partial")}


def test_a_run_has_one_writer(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"run__launcher": "local", "run__workers": 1, "run__zero": 0}
    short = {"optim__epochs": 2, "optim__milestones": (1,), "eval__every": 2}
    config = tiny(people, tmp_path, **alone, **short, run__name="one")
    file, run, log = tmp_path / "one.yaml", tmp_path / "one", tmp_path / "log"
    file.write_text(configuration.to_yaml(config))
    first = start("tests.runs.training.test_stop:ready_to_be_asked", file, log)
    try:
        while not (run / "last.json").exists():
            assert first.poll() is None, log.read_text()
            time.sleep(0.02)
        config_before = (run / "config.yaml").read_bytes()
        with pytest.raises(TakenError, match=rf"one: is being written by pid {first.pid} on .*give another run.name"):
            train.main(["--cfg", str(file), "loss.tau=0.5"])
        train.main(["--cfg", str(file), "--dry-run"])
        fetch.main([str(run), "--last", "-o", str(tmp_path / "last.safetensors")])
        assert "step 4, " in capsys.readouterr().out
        first.send_signal(signal.SIGSTOP)
        before = contents(run)
        assert before["config.yaml"] == config_before
        (run / storage.LOCK).write_text(json.dumps({"token": "of another", "host": "node7", "pid": 12}))
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 7, log.read_text()
    finally:
        first.kill()
        first.wait()
    *_, last = log.read_text().splitlines()
    assert last.startswith(f"icon_dist: error: {run}: is being written by pid 12 on node7 ")
    assert "Traceback" not in log.read_text()
    assert contents(run) == before, "it has written nothing more"

    gone = lock_owner.this_process() | {"token": "of a killed one", "born": "1"}
    (run / storage.LOCK).write_text(json.dumps(gone))
    leftover = run / "checkpoints" / ".model.safetensors.0123abcd.partial"
    leftover.touch()
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "FIRST_BEAT_S", 0.1)
    train.main(["--cfg", str(file)])
    assert manifest.newest_step(str(run)) == 8
    assert "sign of life" not in capsys.readouterr().err, "a dead owner is followed at once"
    assert not leftover.exists()
    assert not (run / storage.LOCK).exists()


def test_shards_that_are_being_built_name_who_builds_them(tmp_path: Path) -> None:
    (tmp_path / BUILDING).write_text("{}")
    with (
        lock.hold(str(tmp_path), fix=""),
        pytest.raises(DataError, match=r"is being written by pid .*wait for its end"),
    ):
        open_shards(str(tmp_path))
    with pytest.raises(DataError, match="the build is unfinished; run the same"):
        open_shards(str(tmp_path))
