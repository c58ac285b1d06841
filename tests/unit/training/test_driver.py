"""Where a driver begins: what it makes of the places of a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist.errors import ConfigError
from icon_dist.training.driver import anchored


def test_results_do_not_go_where_ray_removes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job submit --working-dir .` starts in a copy: such a run ended with 0, and was gone with the copy."""
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_3c5dbda04e88d013"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match=r"^run\.dir='runs': .* the next job has another; give s3://"):
        anchored(configuration.load("demo"))
    for lasting in ("s3://bucket/runs", str(tmp_path / "runs")):
        assert anchored(configuration.load("demo", {"run.dir": lasting})).run.dir == lasting
    monkeypatch.chdir(tmp_path)
    assert anchored(configuration.load("demo")).run.dir == str(tmp_path / "runs")
