"""Into a Ray cluster, or to a new one on this machine; Ray's own errors are pages long, and it waits for minutes."""

from __future__ import annotations

import os
import re
import signal
import socket

import ray

from icon_dist.engine import ray_token
from icon_dist.errors import ClusterError


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
        ray_token.keep_private()
        here = {
            "num_cpus": max(os.cpu_count() or 1, cpus),
            "include_dashboard": True,  # without it Train leaks placement groups
            "dashboard_host": "127.0.0.1",
            "dashboard_port": _free_port(),
        }
    _require_open(address)
    # Ray's processes inherit what is blocked: the hang-up of a terminal is for this one, which then saves with them.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except Exception as error:  # Ray raises bare ones, too
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"RAY_ADDRESS={address}: {reason}; {fix}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return address


def _require_open(address: str) -> None:
    if match := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address):
        try:
            socket.create_connection((match[1], int(match[2])), timeout=5).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ClusterError(f"RAY_ADDRESS={address}: does not answer ({reason}); start its head node") from None


def _free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
