"""Members of Ray without a public name, in one place: ``tests/system/test_ray_nodes.py`` says what is relied on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import ray
from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
from ray._private.runtime_env import packaging
from ray._private.services import get_ray_address_from_environment


def draining_nodes() -> set[str]:
    """Ids of the nodes that the cluster has announced to take away: a spot instance, a scale-down.

    Ray Train's public notice reaches a worker by a collective of its own at every question; this is what it reads.
    """
    return set(ray._private.state.state.get_draining_nodes())


def running_head() -> str:
    """HOST:PORT of the head that ``auto`` means, on this machine; ConnectionError where there is none."""
    return str(get_ray_address_from_environment("auto", None))


def packaged(folder: Path, excludes: Sequence[str]) -> dict[str, int]:
    """The files that a job gets of a working directory, and their sizes.

    Which these are ``excludes`` decides, and .gitignore and .rayignore of every folder; links are followed.
    """
    found: dict[str, int] = {}

    def add(path: Path) -> None:
        """Take a file in."""
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.stat().st_size

    respected = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    packaging._dir_travel(folder, [packaging._get_excludes(folder, [*excludes])], add, include_gitignore=respected)
    return found
