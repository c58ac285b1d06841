"""Builds of real sets that are killed, that take minutes, or that Ray does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.builds import SOME, digests, lsp, packed_some, run
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def some(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_some(shared, tmp_path_factory.mktemp("build"))


def test_killed_in_the_middle_and_run_again(some: Path, shared: Path, tmp_path: Path) -> None:
    arguments = [*map(str, lsp(shared, "out", *SOME, "--jobs", 2))]
    command = [sys.executable, str(ROOT / "shards" / "build.py"), *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("out/*.index"))) < 2:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert "manifest.json" not in left
    done = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("out/*.tar") if p.with_suffix(".index").exists()}
    result = run("build.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "people are packed already; going on" in result.stderr
    assert digests(tmp_path / "out") == digests(some)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in done} == done, "packed twice"


def test_workers_leave_when_their_parent_is_killed(shared: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "shards" / "build.py"), *map(str, lsp(shared, "out", *SOME, "--jobs", 2))]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(tmp_path.glob("out/*.index")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.05)


def test_all_of_lsp_extended(shared: Path, tmp_path: Path) -> None:
    both = run("build.py", *lsp(shared, "all", names=("lspet_full14", "lspet_partial")), cwd=tmp_path)
    assert both.stdout.startswith("all: 10000 people, 10 shards"), both.stderr
    for name in ("one", "two"):
        result = run("build.py", *lsp(shared, name), cwd=tmp_path)
        assert result.stdout.startswith(f"{name}: 3945 people, 4 shards"), result.stderr
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert run("verify.py", "one", cwd=tmp_path).returncode == 0


@pytest.mark.ray
def test_ray_packs_the_same_bytes(some: Path, shared: Path, tmp_path: Path) -> None:
    result = run("build.py", *lsp(shared, "out", *SOME, "--ray"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "out") == digests(some)
