"""Output that nobody reads any more: work goes on to its end, and the exit code is that of the work."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist.checkpoints import manifest
from tests.support.paths import ROOT
from tests.support.training import tiny

TALKS = """
import os, subprocess, sys, warnings
from pathlib import Path
from icon_dist.command_exit import run_cli
def main(argv):
    print("first", flush=True)
    if sys.stdin is not None:
        sys.stdin.readline()
    for _ in range(10_000):
        print("a line on stdout")
        print("a line on stderr", file=sys.stderr)
    sys.stdout.flush()
    warnings.warn("of a library")
    subprocess.run(["echo", "of a child"], check=True)
    Path(argv[0]).write_text("done")
    return 3
run_cli(main)
"""


@pytest.mark.parametrize("joined", [True, False], ids=["2>&1", "stdout"])
def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path, joined: bool) -> None:
    command = [sys.executable, "-c", TALKS, str(tmp_path / "end")]
    into = subprocess.STDOUT if joined else None
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=into) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.close()
    assert process.returncode == 3
    assert (tmp_path / "end").read_text() == "done"


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_were_never_open(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Their numbers are not given to files, into which libraries would print."""
    command = "exec " + " ".join(f"{number}>&-" for number in closed) + ' "$@"'
    line = [sys.executable, "-c", TALKS, str(tmp_path / "end")]
    done = subprocess.run(["sh", "-c", command, "sh", *line], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 3
    assert (tmp_path / "end").read_text() == "done"


def test_a_full_disk_is_no_reader_that_has_seen_enough(tmp_path: Path) -> None:
    line = [sys.executable, "-c", TALKS, str(tmp_path / "end")]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(line, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5
    assert done.stderr.startswith(f"icon_dist: error: standard output: {os.strerror(errno.ENOSPC)}; free some space")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "end").exists()


def test_training_goes_on_to_its_end(people: Path, tmp_path: Path) -> None:
    alone = {"run__launcher": "local", "run__workers": 1, "run__zero": 0}
    config = tiny(people, tmp_path, **alone, optim__epochs=1, optim__milestones=(), run__name="unread")
    (tmp_path / "config.yaml").write_text(configuration.to_yaml(config))
    command = [sys.executable, "-W", "ignore", "-m", "icon_dist.train", "--cfg", str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    assert manifest.newest_step(str(tmp_path / "unread")) == 4
    assert not (tmp_path / "unread" / ".lock.json").exists()
