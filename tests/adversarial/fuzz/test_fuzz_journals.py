"""Damaged journals: one line that says where, or a driver that goes on; never a traceback, never a lost file."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import optuna
import pytest

from icon_dist.errors import IconError
from icon_dist.search.journal import NAME, Journal
from icon_dist.search.study import open_repeats
from tests.adversarial.fuzz import journals

SEEDS = int(os.environ.get("FUZZ_CASES", "40"))
GO_ON = 8  # of so many that can be opened, one is gone on with


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = tmp_path_factory.mktemp("journal") / "sound"
    journals.write(folder)
    return folder


def test_a_sound_journal_goes_on(sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "study"))
    assert [(number, score) for number, _, score in journals.go_on(folder)] == [(i, 42.0 + i) for i in range(13)]
    assert {"best.yaml", "sweep.html", "trials.csv"} <= {file.name for file in folder.iterdir()}
    assert not list(folder.glob("*.damaged*"))


def attempt(folder: Path, *, further: bool) -> str:
    """The error of a driver that opens the study, and goes on if it is to go further; nothing if it can."""
    try:
        if further:
            journals.go_on(folder)
        else:
            with Journal(str(folder)) as journal:
                journals.sweep_of(journal)
                open_repeats(journal)
    except IconError as error:
        return str(error)
    return ""


def test_damaged_journals(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, opened, refused = (sound / NAME).read_bytes(), 0, 0
    for seed in range(SEEDS):
        folder = Path(shutil.copytree(sound, tmp_path / str(seed)))
        kind, data = journals.damaged(whole, random.Random(seed))
        (folder / NAME).write_bytes(data)
        said = attempt(folder, further=opened % GO_ON == 0)
        opened, refused = opened + (not said), refused + bool(said)
        assert "\n" not in said, (seed, kind, said)
        assert len(said) < 500 + 2 * len(str(folder)), (seed, kind, said)
        kept = [file.read_bytes() for file in folder.glob(f"{NAME}*")]
        assert any(one.startswith(data) for one in kept), (seed, kind)
        notes = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
        assert len(notes) == len(kept) - 1, (seed, kind, notes)
        shutil.rmtree(folder)
    assert opened > SEEDS // 5
    assert refused > SEEDS // 5
