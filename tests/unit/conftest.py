"""No test of this folder starts a process: those that need one are in tests/runs."""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
from typing import NoReturn

import pytest


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a unit test starts a process; it belongs to tests/runs")


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session shares, such as the S3 server, is there before."""
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(os, "fork", refuse)
