"""What a config, or a dry run, is refused with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icon_dist import train
from icon_dist.command_exit import run_cli
from icon_dist.config import load
from icon_dist.errors import ConfigError
from tests.support import small_sets


def refused(name_or_path: str | Path, overrides: Any = ()) -> str:
    with pytest.raises(ConfigError) as error:
        load(str(name_or_path), overrides)
    text = str(error.value)
    assert "\n" not in text
    return text


def dry_run(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str]]:
    """Exit code and lines on stderr of a dry run of the smallest network."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        run_cli(train.main, ["--cfg", "coco", *small_sets.TRAINING, *argv, "--dry-run"])
    return int(left.value.code or 0), capfd.readouterr().err.splitlines()
