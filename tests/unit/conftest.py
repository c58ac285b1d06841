"""No test of this folder starts a process: those that need one are in tests/runs."""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
from collections.abc import Generator
from typing import NoReturn

import pytest


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a unit test starts a process; it belongs to tests/runs")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Fixtures may: the S3 server is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(os, "fork", refuse)
        return (yield)
