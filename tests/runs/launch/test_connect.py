"""Addresses that lead to no Ray, and a machine that cannot reach itself: one line within seconds, not minutes."""

from __future__ import annotations

import http.server
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from icon_dist.errors import ClusterError
from icon_dist.launch import ray_compat
from icon_dist.launch.connect import connect, own_signals
from tests.support.paths import ROOT
from tests.support.s3 import free_port


class Silent(http.server.BaseHTTPRequestHandler):
    """Answers, and writes nothing on stderr."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web() -> Iterator[int]:
    """A port where something else than Ray answers."""
    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match=r"^RAY_ADDRESS=\S+: does not answer \(Connection refused\); start its head"):
        connect()


def test_an_address_of_ray_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(ClusterError, match=r"that is Ray Client, which cannot train; give HOST:PORT of the head node"):
        connect()


def test_an_address_of_something_else(monkeypatch: pytest.MonkeyPatch, web: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{web}")
    with pytest.raises(ClusterError, match="what answers there is no Ray; give HOST:PORT of its head node"):
        connect()


def test_the_head_of_this_machine_is_asked_as_well(monkeypatch: pytest.MonkeyPatch, web: int) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_compat, "running_head", lambda: f"127.0.0.1:{web}")
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS=127.0.0.1:{web}: what answers there is no Ray"):
        connect(otherwise="auto")


def test_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("icon_dist.launch.connect.ANSWER_S", 0.1)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ClusterError, match=r"does not answer \(timed out\); start its head node"):
            connect()


@pytest.mark.parametrize("call", ["icon_dist.launch.connect:connect", "icon_dist.distributed:init_alone"])
def test_a_machine_that_cannot_reach_itself(call: str) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no network of its own to a process")
    arguments = '"gloo"' if call.endswith("alone") else ""
    code = f"""
import pkgutil
from icon_dist.command_exit import run_cli
call = pkgutil.resolve_name({call!r})
run_cli(lambda _: call({arguments}), [])
"""
    done = subprocess.run([unshare, "-rn", sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 7
    *_, last = done.stderr.splitlines()
    assert last.startswith("icon_dist: error: ")
    assert "this machine cannot reach itself" in last
    assert "(ip link set lo up)" in last
    assert "Traceback" not in done.stderr


def test_handlers_stay_ours_and_rays_processes_do_not_hang_up() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with own_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does with one of its own
        assert signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "and so in what is started here"
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
