"""An exported file that several test files run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.export import trained


@pytest.fixture(scope="session")
def rtmlib_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For rtmlib, of 21 joints of a hand, UDP, and weights that want BGR; ``m.safetensors`` beside it."""
    folder = tmp_path_factory.mktemp("rtmlib")
    config = {"data__codec": "udp", "eval__decode": "dark", "channel_order": "bgr"}
    return trained.exported(folder, "m.onnx", "--for", "rtmlib", skeleton=trained.of_joints(21), **config)
