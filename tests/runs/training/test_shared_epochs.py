"""Epochs that trials have in common: which those are, and that nobody could tell that they were trained once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist.config import Config, get
from icon_dist.config.schema import choices, leaves
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError
from icon_dist.methods.from_config import method_of
from icon_dist.models import from_config
from icon_dist.search.shared_epochs import begin, same_until
from icon_dist.search.space import with_values
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
        (["loss.relation"], [], 0),  # of the bank of limbs
        (["loss.tau"], ["loss.lambda_p=0"], 0),  # without a projection head
        (["loss.tau"], ["loss.lambda_1=0"], 0),  # without a bank of joints
        (["loss.bank.slots"], ["loss.bank.slots=0"], 0),  # without any
    ],
)
def test_what_trials_have_in_common(changed: list[str], given: list[str], epoch: int) -> None:
    assert same_until(configuration.load("demo", given), changed) == epoch


def test_what_is_shared_fits_whatever_else_is_trained() -> None:
    """The network and the banks are of the same tensors with every other value of a key that runs may differ in.

    But for the size of a bank, which a ring takes over.
    """
    first = configuration.load("demo", [])
    own, shared = tensors(first), 0
    for key, value in leaves(first):
        for other in others(first, key, value):
            config = with_values(first, {key: other})
            if same_until(config, [key]) and key != "loss.bank.slots":
                assert tensors(config) == own, key
                shared += 1
    assert shared > 30
    assert tensors(with_values(first, {"loss.relation": "triplets"})) != own


def others(config: Config, key: str, value: object) -> list[object]:
    section, _, name = key.rpartition(".")
    if names := choices(type(get(config, section))).get(name):
        found: list[object] = [one for one in names if one != value]
    else:
        numbers = (
            (not value,) if isinstance(value, bool) else (value + 1, value / 2) if isinstance(value, float) else ()
        )
        found = [*numbers] if not isinstance(value, int) or isinstance(value, bool) else [value + 1]
    return [one for one in found if is_valid(config, key, one)]


def is_valid(config: Config, key: str, value: object) -> bool:
    with contextlib.suppress(ConfigError):
        with_values(config, {key: value})
        return True
    return False


def tensors(config: Config) -> dict[str, tuple[int, ...]]:
    skeleton = load_skeleton("coco")
    model = from_config.shape(config, skeleton)
    method = method_of(config, skeleton, model, micro_batch=4, teacher=None)
    return {name: tuple(t.shape) for name, t in {**model.state_dict(), **method.state_dict()}.items()}


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
