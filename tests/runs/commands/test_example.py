"""The script of ``docs/`` runs as it stands."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

from tests.support.paths import ROOT
from tests.support.small_models import DOG, picture, weights_file, write


def test_the_example_prints_joints_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_file(tmp_path / "dog.safetensors", DOG)
    photo = write(tmp_path / "photo.png", picture())
    script = ROOT / "docs" / "examples" / "predict_photo.py"
    monkeypatch.setattr("sys.argv", [str(script), str(weights), str(photo), str(tmp_path / "out.jpg")])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(DOG.joints)
    assert all(len(line.split()) == 4 for line in printed)
    with Image.open(tmp_path / "out.jpg") as drawn:
        assert drawn.size == (120, 90)
