"""The user's own line, ``ray job submit -- python -m icon_dist.train --cfg ...``: the only Ray of ``make test``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from icon_dist.errors import ClusterError
from icon_dist.launch.connect import connect
from icon_dist.launch.ray_compat import running_head
from tests.support.ray_nodes import Nodes, cluster
from tests.support.run_results import final
from tests.support.training import arguments, tiny

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[Nodes]:
    with cluster() as started:
        yield started


@pytest.mark.timeout(280)
@pytest.mark.usefixtures("head")
def test_the_users_own_line(people: Path, tmp_path: Path) -> None:
    """``ray job submit -- python -m icon_dist.train --cfg ...``: success, resume, and a failure that says why."""

    def submit(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ray", "job", "submit", "--", *line], capture_output=True, text=True, check=False)

    done = submit("python", *arguments(people, tmp_path, run__name="job", optim__epochs=1, optim__milestones=()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete: step 4 of 4" in done.stdout
    final(tiny(people, tmp_path, run__name="job"))

    failed = submit("python", "-m", "icon_dist.train", "--cfg", "coco", f"data.train={tmp_path}/none")
    assert failed.returncode == 1
    lines = {line for line in failed.stdout.splitlines() if "icon_dist: error:" in line}  # ray prints the end twice
    assert len(lines) == 1
    assert "icon-dist shards build" in lines.pop()
    assert "exit code 3" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout


def test_a_cluster_that_does_not_take_us(head: Nodes, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """One line, and none of Ray's, which asks for half a minute."""
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    for token, said in (("wrong", "refuses this token"), ("", "wants a token")):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/dev/null")
        with pytest.raises(ClusterError, match=f"{said}; copy ~/.ray/auth_token of the user who started the head"):
            connect()
    assert capfd.readouterr().err == ""
    monkeypatch.delenv("RAY_ADDRESS")
    assert re.fullmatch(r"\S+:\d+", running_head())
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    other = "import ray; ray.__version__ = '9.9.9'; from icon_dist.launch.connect import connect; connect()"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert re.search(rf"Ray: {ray.__version__} .* Ray: 9\.9\.9 .*; install what the cluster has\n$", done.stderr)
