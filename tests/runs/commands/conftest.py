"""``icon_dist.train`` in this process, and a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from icon_dist import train
from icon_dist.command_exit import run_cli
from tests.support.commands import Command, Outcome, one_process


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run ``main(argv)`` as the console would; with everything it prints, DeepSpeed's output included."""

    def run(*argv: str, main: Callable[[list[str]], int | None] = train.main) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run_cli(main, list(argv))
        out, err = capfd.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="module")
def runs(people: Path, module_path: Path) -> Path:
    """A folder with the finished run ``first``: stopped after an epoch, then the same command again."""
    train.main(one_process(people, module_path, "run.stop_after_epoch=1"))
    train.main(one_process(people, module_path))
    return module_path


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """The finished run, to be spoiled."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))
