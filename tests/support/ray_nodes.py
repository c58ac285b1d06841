"""Ray clusters of separate nodes on this machine, as an operator starts them, with token authentication."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.s3 import free_port


def wait_for(ready: Callable[[], object], *, alive: subprocess.Popen[bytes], log: Path, seconds: float) -> float:
    """How long it took; AssertionError with the log once the process has ended, or the time is up."""
    began = time.monotonic()
    while not ready():
        assert alive.poll() is None, f"ended with {alive.returncode}: {log.read_text()}"
        assert time.monotonic() - began < seconds, f"{seconds} s are over: {log.read_text()}"
        time.sleep(0.05)
    return time.monotonic() - began


def training_workers(pids: list[psutil.Process]) -> list[int]:
    """Which of some processes are Ray Train workers."""
    found = []
    for process in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                found.append(process.pid)
    return found


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


class Nodes:
    """Processes of ``ray start --block``, the head first; a raylet and its workers belong to one."""

    def __init__(self, home: Path, *, cpus: int) -> None:
        self._home, self._cpus = home, cpus
        self.logs: list[Path] = []
        self.started: list[subprocess.Popen[bytes]] = []
        self.gcs, self.dashboard, self._agent = free_port(), free_port(), free_port()
        head = ["--head", "--port", str(self.gcs), "--dashboard-port", str(self.dashboard)]
        self._start(*head, "--temp-dir", str(home / "ray"), agent=self._agent)

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return f"127.0.0.1:{self.gcs}"

    def join(self, count: int) -> None:
        """Add nodes; Ray gives each 30 s, too few on a busy machine, so they may try again."""
        for _ in range(5):
            before = len(self.started)
            for _ in range(count):
                self._start("--address", self.address, agent=free_port())
            for node in range(before, len(self.started))[::-1]:
                while self.started[node].poll() is None and "Ray runtime started" not in self.logs[node].read_text():
                    time.sleep(0.2)
                if self.started[node].poll() is None:
                    count -= 1
                else:
                    self.forget(node)
            if not count:
                return
        raise AssertionError(self.said())

    def _start(self, *arguments: str, agent: int) -> None:
        # the agent's default belongs to any other cluster here
        ports = ["--dashboard-agent-listen-port", str(agent), "--metrics-export-port", str(free_port())]
        small = ["--num-cpus", str(self._cpus), "--object-store-memory", str(200 << 20), "--disable-usage-stats"]
        command = ["ray", "start", *arguments, *ports, *small, "--block"]
        self.logs.append(self._home / f"node-{agent}.log")
        with self.logs[-1].open("w") as out:
            self.started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))

    def wait_until_up(self) -> None:
        """Until the head takes jobs: its dashboard answers before the agent that starts them does."""
        deadline = time.monotonic() + 120
        for port, path in ((self.dashboard, "gcs_healthz"), (self._agent, "local_raylet_healthz")):
            while not _answers(f"http://127.0.0.1:{port}/api/{path}"):
                assert self.started[0].poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.2)

    def processes(self, node: int) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.started[node].pid).children(recursive=True))
        return []

    def workers(self, node: int) -> list[int]:
        """Pids of training workers."""
        return training_workers(self.processes(node))

    def kill(self, node: int) -> None:
        """As a machine goes down: all its processes at once, nothing is said to anybody."""
        processes = [*self.processes(node), psutil.Process(self.started[node].pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.started[node].wait(30)

    def drain(self, node: int, *, seconds: int) -> None:
        """As a cloud does that takes a machine back: the cluster is told so beforehand."""
        raylet = next(p.cmdline() for p in self.processes(node) if p.name() == "raylet")
        identity = next(word.partition("=")[2] for word in raylet if word.startswith("--node_id="))
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command = ["ray", "drain-node", "--address", self.address, "--node-id", identity, *reason]
        subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)], check=True, capture_output=True)

    def forget(self, node: int) -> None:
        del self.started[node], self.logs[node]

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


@contextlib.contextmanager
def cluster(*, nodes: int = 1, cpus: int = 2) -> Iterator[Nodes]:
    """So many nodes; this process and its children find jobs, token and the ``ray`` command by their environment."""
    home = Path(tempfile.mkdtemp(prefix="icon-"))  # short: Ray's sockets live below it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        subprocess.run(["ray", "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL)
        started = Nodes(home, cpus=cpus)
        try:
            patch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{started.dashboard}")
            started.wait_until_up()
            if nodes > 1:
                started.join(nodes - 1)
            yield started
        finally:
            for node in range(len(started.started)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    started.kill(node)
            shutil.rmtree(home, ignore_errors=True)
