"""What a short run never reaches: an error where the user set it, a note where a preset did."""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist import train
from icon_dist.cli import presets
from icon_dist.config import check_short_run, load
from tests.support import small_sets
from tests.support.refusals import dry_run

NEVER = [
    ("optim.milestones=[3]", "optim.milestones=[3]: [3] is never reached in 1 epoch"),
    ("loss.start_epoch=1", "loss.start_epoch=1.0: contrast never starts in 1 epoch"),
    ("loss.ramp_epochs=2", "loss.ramp_epochs=2.0: contrast does not grow to its full weight in 1 epoch"),
    ("run.checkpoint_every=2", "run.checkpoint_every=2.0: the run is saved only"),
    ("run.stop_after_epoch=2", "run.stop_after_epoch=2: the run is over after 1 epoch"),
    ("optim.warmup_steps=17", "optim.warmup_steps=17: the learning rate does not rise to optim.lr in 16 steps"),
    ("run.log_every=17", "run.log_every=17: the loss is logged only at the last of 16 steps"),
    ("loss.bank.warmup=16", "loss.bank.warmup=16: the bank is never used in the 16 steps"),
]


REACHED = ["loss.ramp_epochs=1", "run.checkpoint_every=1", "optim.warmup_steps=16", "run.log_every=16"]


@pytest.mark.parametrize(("item", "says"), NEVER)
def test_what_a_short_run_never_reaches(
    item: str, says: str, people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error about what the user set himself, a note about what came with his preset: 64 people, 16 steps."""
    place = ["data.dataset=synthetic", f"data.train={people}/train", f"run.dir={tmp_path}/runs"]
    code, (line,) = dry_run(capfd, *place, item)
    assert code == 2
    assert says in line
    assert line.endswith("; lower it or leave it out")
    key = item.partition("=")[0]
    config = load("coco", [*small_sets.TRAINING, item])
    for own in ({}, {"optim.lr": "own.yaml"}):
        notes = [*check_short_run(config, own), *check_short_run(config, own, steps=16)]
        assert (
            [text for text in notes if text.startswith(key)] == [text for text in notes if text.startswith(says)] != []
        )


def test_a_preset_that_a_run_is_too_short_for_is_noted(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = [f"data.train={people}/train", f"data.val={people}/val", f"run.dir={tmp_path}/runs"]
    capfd.readouterr()
    train.main(["--cfg", "lsp", "data.dataset=synthetic", *place, "optim.epochs=3", "--dry-run"])
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        f"icon_dist: note: {text}"
        for text in (
            "optim.milestones=[15, 18]: [15, 18] are never reached in 3 epochs, so the learning rate is not lowered "
            "there",
            "loss.start_epoch=8.0: contrast never starts in 3 epochs",
            "eval.every=5: the run is scored only at its end, after 3 epochs",
            "optim.warmup_steps=100: the learning rate does not rise to optim.lr in 6 steps",
            "run.log_every=20: the loss is logged only at the last of 6 steps",
        )
    ]


def test_what_is_just_reached_is_fine(people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["data.dataset=synthetic", f"data.train={people}/train", f"run.dir={tmp_path}/runs"]
    assert dry_run(capfd, *place, *REACHED) == (0, [])


@pytest.mark.parametrize("name", presets())
def test_presets_reach_what_they_set(name: str) -> None:
    assert check_short_run(load(name), {}) == []
