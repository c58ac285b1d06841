"""Epochs that trials have in common: which those are, and that nobody could tell that they were trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist.search.shared_epochs import begin, same_until
from tests.support.run_results import assert_equal, final, losses
from tests.support.training import run_gang, tiny

LAMBDAS = ["loss.lambda_1", "loss.lambda_2", "loss.lambda_p"]


@pytest.mark.parametrize(
    ("changed", "given", "epoch"),
    [
        (LAMBDAS, [], 6),
        ([*LAMBDAS, "run.seed"], [], 6),
        (["loss.tau", "loss.skcc.queries", "loss.bank.slots", "loss.max_negatives"], [], 6),
        (["loss.tau"], ["loss.start_epoch=2.5"], 2),
        (["loss.tau"], ["loss.start_epoch=10"], 0),  # never
        (["loss.tau", "optim.lr"], [], 0),
        (["loss.heatmap.weight"], [], 0),
        (["loss.start_epoch"], [], 0),
        (["loss.bank.budget"], [], 0),
        (["loss.tau"], ["loss.lambda_p=0"], 0),  # without a projection head
        (["loss.tau"], ["loss.lambda_1=0"], 0),  # without a bank of joints
        (["loss.bank.slots"], ["loss.bank.slots=0"], 0),  # without any
    ],
)
def test_what_trials_have_in_common(changed: list[str], given: list[str], epoch: int) -> None:
    assert same_until(configuration.load("demo", given), changed) == epoch


def test_the_second_goes_on_from_the_first(people: Path, tmp_path: Path) -> None:
    """Another weight, temperature and bank: the bits of a run that trained all of its epochs."""
    shared = str(tmp_path / "shared")
    more = {"loss__start_epoch": 1, "optim__epochs": 2, "optim__milestones": (1,), "run__stop_after_epoch": 0}
    more |= {"optim__micro_batch": 16, "run__zero": 0}  # the whole batch of one rank
    others = {"loss__lambda_p": 0.7, "loss__tau": 0.3, "loss__bank__slots": 16}

    first = tiny(people, tmp_path, run__name="first", **more)
    part = tiny(people, tmp_path, run__name="first", **more | {"run__stop_after_epoch": 1})
    begin(str(tmp_path / "first"), shared=shared, epoch=1, train=lambda: run_gang(part, scratch=tmp_path, world=1))
    second, alone = (tiny(people, tmp_path, run__name=name, **more | others) for name in ("second", "alone"))
    begin(str(tmp_path / "second"), shared=shared, epoch=1, train=pytest.fail)
    run_gang(first, second, alone, scratch=tmp_path, world=1)

    begin(str(tmp_path / "second"), shared=shared, epoch=1, train=pytest.fail)  # it has been there
    assert_equal(final(second), final(alone))
    assert losses(second) == losses(alone)
    assert losses(first) != losses(alone)
