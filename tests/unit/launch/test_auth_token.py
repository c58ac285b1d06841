"""Ray's token is for its owner alone from its first moment on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icon_dist.launch import auth_token


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_one_is_made_for_its_owner_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, modes = os.link, []
    monkeypatch.setattr(os, "link", lambda source, target: (modes.append(mode(Path(source))), link(source, target)))
    old = os.umask(0)
    try:
        auth_token.keep_private()
    finally:
        os.umask(old)
    assert modes == [0o600], "before it had its name"
    token = file.read_text()
    assert (len(token), mode(file)) == (64, 0o600)
    int(token, 16)
    assert os.listdir(file.parent) == ["auth_token"]
    auth_token.keep_private()
    assert file.read_text() == token


def test_what_ray_made_is_closed_and_kept(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("made by Ray")
    file.chmod(0o644)
    auth_token.keep_private()
    assert (file.read_text(), mode(file)) == ("made by Ray", 0o600)


def test_of_two_drivers_the_first_ones_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.mkdir()
    file.write_text("the first one's")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    auth_token.keep_private()
    assert file.read_text() == "the first one's"


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_a_token_from_elsewhere_is_left_alone(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "disabled")
    auth_token.keep_private()
    assert not file.parent.exists()


def test_a_home_that_cannot_be_written(file: Path) -> None:
    file.parent.write_text("in the way")
    auth_token.keep_private()
    assert file.parent.read_text() == "in the way"
