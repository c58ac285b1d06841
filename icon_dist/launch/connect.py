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
from icon_dist.launch import auth_token, ray_compat

ANSWER_S = 5.0
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # a question that every head answers


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
    try:
        if address == "auto":
            address = ray_compat.running_head()
        _require_open(address)
        with own_signals():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except IconError:
        raise
    except SystemExit:  # Ray's handler, which is there before it comes up
        raise StoppedError("stopped by SIGTERM; the same command goes on") from None
    except Exception as error:  # Ray raises bare ones, too
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__
        if reason.startswith("Version mismatch"):
            fix = "install what the cluster has"
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
    """Ask whether Ray's head is there and takes our token: Ray would ask for half a minute, and warn every second."""
    if address.startswith("ray://"):
        fix = "give HOST:PORT of the head node, or use icon-dist submit"
        raise ClusterError(f"RAY_ADDRESS={address}: that is Ray Client, which cannot train; {fix}")
    if not (match := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)):
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(f"RAY_ADDRESS={address}: does not answer ({reason}); start its head node") from None
    if {"RAY_USE_TLS", "RAY_ENABLE_K8S_TOKEN_AUTH"} & set(os.environ):
        return  # Ray itself has certificates, and knows of other tokens
    import grpc  # a part of Ray

    token = auth_token.find() if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" else ""
    headers = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:  # as Ray does
        try:
            channel.unary_unary(ALIVE)(b"", timeout=4 * ANSWER_S, metadata=headers)  # as long as Ray, if it is busy
        except grpc.RpcError as error:
            said = {
                grpc.StatusCode.UNAUTHENTICATED: auth_token.refused(token),
                grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer (timed out); start its head node",
                grpc.StatusCode.UNAVAILABLE: "what answers there is no Ray; give HOST:PORT of its head node",
            }.get(error.code())
            if said:
                raise ClusterError(f"RAY_ADDRESS={address}: {said}") from None


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
