"""Services that can be told what a run does, one file each: ``run.report=[wandb]``. The driver alone talks to them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from icon_dist.errors import ClusterError, needed_for, shorten
from icon_dist.loggers.logger import Reporter

PROJECT = "icon_dist"


def packages(names: Sequence[str]) -> dict[str, ModuleType]:
    """The packages of these services; ClusterError where one is not installed."""
    found = {}
    for name in names:
        with needed_for(f"run.report={name}", name):
            found[name] = importlib.import_module(name)
    return found


def start(services: Mapping[str, ModuleType], *, run_uri: str, config: Mapping[str, Any]) -> list[Reporter]:
    """Begin to report a run, or go on; a run is known again by its place. ClusterError where a service refuses."""
    name = run_uri.rpartition("/")[2]
    identity = f"{name}-{hashlib.sha256(run_uri.encode()).hexdigest()[:8]}"
    reporters: list[Reporter] = []
    for service, package in services.items():
        module = importlib.import_module(f"icon_dist.loggers.{service}")
        try:
            reporters.append(module.Service(package, name=name, identity=identity, config=config))
        except Exception as error:
            for begun in reporters:  # is over before it has begun
                with suppress(Exception):
                    begun.close()
            why = shorten(str(error) or type(error).__name__, 300).rstrip(".")
            raise ClusterError(f"run.report={service}: {why}; mend it, or leave the service out") from None
    return reporters
