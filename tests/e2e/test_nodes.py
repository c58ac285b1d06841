"""A cluster of three Ray nodes on this machine, its data and checkpoints on S3: a node is killed, the run goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from icon_dist import storage
from tests.conftest import ROOT
from tests.engine.test_resume import assert_equal, final
from tests.gang import TINY, run_gang, tiny
from tests.s3 import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LONG = {"optim__epochs": 12, "optim__milestones": (10,), "eval__every": 100}


class Nodes:
    """Processes of ``ray start --block`` with one CPU each, the head first; a raylet and its workers belong to one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.logs: list[Path] = []
        self.started: list[subprocess.Popen[bytes]] = []
        self.gcs, self.dashboard = free_port(), free_port()
        head = ["--head", "--port", str(self.gcs), "--dashboard-port", str(self.dashboard)]
        self._start(*head, "--temp-dir", str(home / "ray"))

    def join(self) -> None:
        """Add a node; Ray gives it 30 s, too few on a busy machine, so it may try again."""
        for _ in range(5):
            self._start("--address", f"127.0.0.1:{self.gcs}")
            while self.started[-1].poll() is None:
                if "Ray runtime started" in self.logs[-1].read_text():
                    return
                time.sleep(0.2)
            self.started.pop()
        raise AssertionError(self.said())

    def _start(self, *arguments: str) -> None:
        ports = ["--dashboard-agent-listen-port", str(free_port()), "--metrics-export-port", str(free_port())]
        command = ["ray", "start", *arguments, *ports, "--num-cpus", "1", "--disable-usage-stats", "--block"]
        self.logs.append(self.home / f"node{len(self.logs)}.log")
        with self.logs[-1].open("w") as out:
            self.started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))

    def processes(self, node: int) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.started[node].pid).children(recursive=True)
        return []

    def workers(self, node: int) -> list[int]:
        """Pids of training workers."""
        found = []
        for process in self.processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                    found.append(process.pid)
        return found

    def kill(self, node: int) -> None:
        """As a machine goes down: all its processes at once, nothing is said to anybody."""
        processes = [*self.processes(node), psutil.Process(self.started[node].pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


@pytest.fixture
def nodes(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Three nodes with token authentication; the AWS variables of the test are theirs."""
    del s3
    home = Path(tempfile.mkdtemp(prefix="icon-"))  # short: Ray's sockets live below it
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    subprocess.run(["ray", "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL)
    cluster = Nodes(home)
    try:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{cluster.dashboard}")
        deadline = time.monotonic() + 120
        # the head answers before the agent that starts jobs does
        while subprocess.run(["ray", "job", "submit", "--", "true"], capture_output=True, check=False).returncode:
            assert cluster.started[0].poll() is None, cluster.said()
            assert time.monotonic() < deadline, cluster.said()
        cluster.join()
        cluster.join()
        yield cluster
    finally:
        for node in range(len(cluster.started)):
            with contextlib.suppress(psutil.NoSuchProcess):
                cluster.kill(node)
            cluster.started[node].wait(30)
        shutil.rmtree(home, ignore_errors=True)


def commits(run: str) -> int:
    return sum(name.endswith("/MANIFEST.json") for name in storage.listing(f"{run}/checkpoints"))


@pytest.mark.timeout(900)
def test_a_killed_node_changes_nothing(nodes: Nodes, people: Path, s3: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in storage.listing(f"{people}/{split}"):
            storage.write(f"{s3}/people/{split}/{name}", people / split / name)
    place = {"data.train": f"{s3}/people/train", "data.val": f"{s3}/people/val", "run.dir": f"{s3}/runs"}
    values = TINY | place | {key.replace("__", "."): value for key, value in LONG.items()} | {"run.name": "killed"}
    words = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in values.items()]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "icon_dist.submit", "--no-working-dir", "--follow", "--", "--cfg", "demo", *words]
    with log.open("w") as out:
        job = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 420
        while commits(f"{s3}/runs/killed") < 2:
            assert job.poll() is None, log.read_text()
            assert all(node.poll() is None for node in nodes.started), nodes.said()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        time.sleep(0.3)  # into the next epoch
        busy = [node for node in range(3) if nodes.workers(node)]
        assert [len(nodes.workers(node)) for node in busy] == [1, 1]  # two workers on two nodes
        nodes.kill(busy[-1])  # not the head, where the driver is
        assert job.wait(400) == 0, log.read_text()
    finally:
        job.kill()
        job.wait(30)
    text = log.read_text()
    assert "starting again from the newest checkpoint" in text
    assert "resumed at step" in text
    assert "SUCCEEDED, exit code 0" in text
    straight = tiny(people, tmp_path, run__name="straight", **LONG)  # undisturbed, local, without Ray
    run_gang(straight, scratch=tmp_path)
    assert_equal(final(straight), final(tiny(people, f"{s3}/runs", run__name="killed", **LONG)))
