"""Into a Ray cluster, or to a new one on this machine; Ray's own errors are pages long, and it waits for minutes."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from icon_dist.errors import ClusterError, IconError, StoppedError
from icon_dist.launch import auth_token

ANSWER_S = 5.0
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # as gRPC begins, with a frame of settings


def connect(*, otherwise: str = "local", cpus: int = 0) -> str:
    """Join the cluster that RAY_ADDRESS names (``ray job submit`` sets it); returns its address.

    Without it, ``otherwise``: "local" starts one here with this machine's CPUs, or ``cpus`` if these are more; "auto"
    joins one that runs here. ClusterError if that fails.
    """
    address = os.environ.get("RAY_ADDRESS") or otherwise
    here: dict[str, object] = {}
    fix = "start one with 'ray start --head'" + (", or set RAY_ADDRESS" if otherwise == "auto" else "")
    if address == "local":
        fix = "is the machine overloaded?"
        auth_token.keep_private()
        here = {
            "num_cpus": max(os.cpu_count() or 1, cpus),
            "include_dashboard": True,  # without it Train leaks placement groups
            "dashboard_host": "127.0.0.1",
            "dashboard_port": _free_port(),
        }
    _require_open(address)
    try:
        with own_signals():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except IconError:
        raise
    except SystemExit:  # Ray's handler, which is there before it comes up
        raise StoppedError("stopped by SIGTERM; the same command goes on") from None
    except Exception as error:  # Ray raises bare ones, too
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise ClusterError(f"RAY_ADDRESS={address}: {reason}; {fix}") from None
    return address


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep our handlers while Ray starts, and what hangs up a terminal from its processes: they are needed to save."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if main:
            signal.signal(signal.SIGTERM, handler)


def _require_open(address: str) -> None:
    if match := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
        try:
            with socket.create_connection((match[1], int(match[2])), timeout=ANSWER_S) as peer:
                peer.sendall(HTTP2)
                answer = peer.recv(9)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ClusterError(f"RAY_ADDRESS={address}: does not answer ({reason}); start its head node") from None
        if answer[3:4] != b"\4" and os.environ.get("RAY_USE_TLS", "0") == "0":
            raise ClusterError(f"RAY_ADDRESS={address}: what answers there is no Ray; give HOST:PORT of its head node")


def _free_port() -> int:
    """A port of this machine that nobody listens on; ClusterError where Ray would try for minutes to reach it."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return port
    except OSError as error:
        fix = "bring its loopback interface up (ip link set lo up)"
        raise ClusterError(f"127.0.0.1: this machine cannot reach itself ({error.strerror or error}); {fix}") from None
