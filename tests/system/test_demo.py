"""The whole demo, as ``make demo`` runs it, with everything on S3."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from icon_dist import storage


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_whole_demo_on_s3(s3: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "icon_dist.demo", "--out", s3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok    ") == 3
    names = storage.listing(s3)
    assert {"best.safetensors", "predictions.png", "result.json"} <= set(names)
    assert any(name.startswith("runs/demo/tensorboard/") for name in names)
    assert json.loads(storage.read(f"{s3}/result.json"))["scores"]["PCK@0.2"] > 40
