"""A space is checked whole before the first trial, and says what is wrong in one line."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from icon_dist import config as configuration
from icon_dist.config import Config
from icon_dist.datasets import load_skeleton
from icon_dist.errors import ConfigError
from icon_dist.search.space import (
    Range,
    Space,
    at_point,
    contains,
    distributions,
    fit,
    point_of,
    require_trainable,
    with_values,
)
from icon_dist.shards.shard_set import open_shards
from icon_dist.training.contrast_check import check_contrast
from icon_dist.types import Skeleton
from tests.support.training import tiny

DEMO = configuration.load("demo")


def test_a_space_becomes_optunas() -> None:
    space: Space = {
        "loss.lambda_p": Range(0.01, 1, log=True),
        "loss.skcc.queries": Range(1, 8),
        "loss.skcc.query": ("hard", "random"),
    }
    assert distributions(space, DEMO) == {
        "loss.lambda_p": FloatDistribution(0.01, 1, log=True),
        "loss.skcc.queries": IntDistribution(1, 8),  # because the config's value is a whole number
        "loss.skcc.query": CategoricalDistribution(("hard", "random")),
    }


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"loss.lamda_1": Range(0, 1)}, ["loss.lamda_1", "lambda_1"]),
        ({"los.lambda_1": Range(0, 1)}, ["los.lambda_1", "los"]),
        ({"loss": Range(0, 1)}, ["loss"]),
        ({"loss.lambda_1": Range(1, 0)}, ["loss.lambda_1: 1 .. 0", "impossible range"]),
        ({"loss.lambda_1": Range(0.5, 0.5)}, ["impossible range"]),
        ({"loss.lambda_1": Range(0, 1, log=True)}, ["begins above 0"]),
        ({"loss.lambda_1": Range(-1, 1)}, ["loss.lambda_1=-1.0", "0 or more"]),
        ({"loss.lambda_1": Range(0, float("nan"))}, ["loss.lambda_1", "finite"]),
        ({"loss.tau": Range(0, 1)}, ["loss.tau=0", "above 0"]),
        ({"loss.skcc.queries": Range(1.5, 4)}, ["loss.skcc.queries", "1.5"]),
        ({"loss.skcc.query": ("hard", "sometimes")}, ["sometimes", "hard, random, all"]),
        ({"loss.skcc.query": ()}, ["loss.skcc.query", "no choices"]),
        ({}, ["empty"]),
    ],
)
def test_a_wrong_space_is_one_line(space: Space, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        distributions(space, DEMO)
    text = str(caught.value)
    assert "\n" not in text
    assert "search space" in text
    for word in words:
        assert word in text


def test_what_only_the_data_can_refuse(people: Path, tmp_path: Path) -> None:
    config = tiny(people, tmp_path)
    shards = open_shards(config.data.train, input_hw=config.input_hw)
    joints = shards.skeleton.num_joints
    require_trainable({"loss.skcc.negatives": Range(1, joints - 1)}, config, shards=shards)
    with pytest.raises(ConfigError, match=rf"search space: loss.skcc.negatives={joints}: "):
        require_trainable({"loss.skcc.negatives": Range(1, joints)}, config, shards=shards)


TOGETHER: Space = {  # of which some do nothing beside others
    "loss.skcc.query": ("hard", "random", "all"),
    "loss.skcc.queries": (3, 5),
    "loss.skcc.queries_to": (0, 9),
    "loss.skcc.negative": ("hard", "random"),
    "loss.skcc.category_score": ("mean", "max"),
}


def test_every_point_of_a_space_trains_and_can_be_trained_again(tmp_path: Path) -> None:
    """Also where it draws what does nothing there; ``best.yaml`` is such a point."""
    assert distributions(TOGETHER, DEMO).keys() == TOGETHER.keys()
    kept, loaded = 0, set[Config]()
    for values in itertools.product(*(ends for ends in TOGETHER.values() if isinstance(ends, tuple))):
        point = dict(zip(TOGETHER, values, strict=True))
        config = at_point(DEMO, point)
        if config not in loaded:
            best = tmp_path / "best.yaml"
            best.write_text(configuration.to_yaml(config))
            assert configuration.load(str(best)) == config
            loaded.add(config)
        skcc, given = config.loss.skcc, {key.rpartition(".")[2]: value for key, value in point.items()}
        assert (skcc.query, skcc.negative) == (given["query"], given["negative"])
        assert skcc.queries == (5 if skcc.query == "all" else given["queries"])
        assert skcc.queries_to == (given["queries_to"] if skcc.query == "random" else 0)
        kept += point == point_of(config, TOGETHER)
    assert kept == 3 * (2 + 4 + 1)


def test_what_does_nothing_at_any_point_is_not_searched() -> None:
    with pytest.raises(ConfigError, match=r"search space: loss\.skcc\.queries_to=9: only loss\.skcc\.query=random"):
        distributions({"loss.skcc.queries_to": (0, 9), "loss.tau": (0.1, 0.2)}, DEMO)
    with pytest.raises(
        ConfigError, match=r"loss\.prcc\.queries=3: loss\.prcc\.query=all takes all of them; leave it at 8"
    ):
        distributions({"loss.prcc.queries": Range(3, 8)}, DEMO)
    distributions({"loss.prcc.queries": Range(3, 8), "loss.prcc.query": ("all", "hard")}, DEMO)


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        ({"loss.tau": 0.1, "loss.skcc.query": "hard"}, True),
        ({"loss.tau": 1.1, "loss.skcc.query": "hard"}, False),
        ({"loss.tau": 0.1, "loss.skcc.query": "none"}, False),
        ({"loss.tau": 0.1}, False),
    ],
)
def test_points_outside_are_not_tried(point: dict[str, Any], inside: bool) -> None:
    assert contains({"loss.tau": Range(0.05, 1), "loss.skcc.query": ("hard", "all")}, point) is inside


def test_values_at_dotted_keys() -> None:
    changed = with_values(DEMO, {"loss.skcc.queries": 3, "run.name": "x"})
    assert (changed.loss.skcc.queries, changed.run.name) == (3, "x")
    assert point_of(changed, {"loss.skcc.queries": Range(1, 5)}) == {"loss.skcc.queries": 3}
    assert with_values(changed, {"loss.skcc.queries": DEMO.loss.skcc.queries, "run.name": "demo"}) == DEMO


SAMPLING: Space = {
    "loss.tau": Range(0.03, 0.5, log=True),
    "loss.skcc.queries": Range(1, 12),
    "loss.skcc.negatives": Range(1, 12),
    "loss.prcc.negatives": Range(1, 7),
    "loss.bank.slots": (128, 256),
}
PAPER = {
    "loss.tau": 0.07,
    "loss.skcc.queries": 5,
    "loss.skcc.negatives": 6,
    "loss.prcc.negatives": 4,
    "loss.bank.slots": 256,
}


def few(joints: int, limbs: int) -> Skeleton:
    coco = load_skeleton("coco")
    return dataclasses.replace(coco, name="few", joints=coco.joints[:joints], limbs=coco.limbs[:limbs])


def test_a_search_leaves_out_what_the_skeleton_cannot_have() -> None:
    space: Space = {
        "loss.lambda_1": Range(0, 1),
        "loss.lambda_2": Range(0, 1),
        "loss.lambda_p": Range(0.003, 3, log=True),
    }
    found = fit(space, {"loss.lambda_1": 0.3, "loss.lambda_2": 0.7, "loss.lambda_p": 1.0}, DEMO, few(17, 1))
    assert found.space == {key: space[key] for key in ("loss.lambda_1", "loss.lambda_p")}
    assert found.first == {"loss.lambda_1": 0.3, "loss.lambda_p": 1.0}
    assert found.changes == {"loss.lambda_2": 0.0}
    assert found.notes == [
        "skeleton few has 1 limb pair, contrast needs 2: loss.lambda_2=0, and loss.lambda_2 not searched"
    ]


def test_a_search_ends_at_what_the_skeleton_has() -> None:
    found = fit(SAMPLING, PAPER, DEMO, few(4, 0))
    assert found.space == {
        "loss.tau": SAMPLING["loss.tau"],
        "loss.skcc.queries": Range(1, 4),
        "loss.skcc.negatives": Range(1, 3),
        "loss.bank.slots": (128, 256),
    }
    assert found.first == {
        "loss.tau": 0.07,
        "loss.skcc.queries": 4,
        "loss.skcc.negatives": 3,
        "loss.bank.slots": 256,
    }
    assert contains(found.space, found.first)
    assert found.changes == {"loss.lambda_2": 0.0, "loss.skcc.queries": 4, "loss.skcc.negatives": 3}
    assert "skeleton few has 4 joints: loss.skcc.queries is searched from 1 to 4, not from 1 to 12" in found.notes
    assert len(found.notes) == 3
    base = with_values(DEMO, found.changes)
    check_contrast(base.loss, few(4, 0))
    assert distributions(found.space, base)["loss.skcc.negatives"] == IntDistribution(1, 3)


def test_where_one_value_is_left_it_is_taken() -> None:
    found = fit(SAMPLING, PAPER, DEMO, few(2, 2))
    assert "loss.skcc.negatives" not in found.space | found.first
    assert "loss.prcc.negatives" not in found.space
    assert found.changes["loss.skcc.negatives"] == found.changes["loss.prcc.negatives"] == 1
    choices: Space = {"loss.skcc.negatives": (2, 4, 9)}
    assert fit(choices, {"loss.skcc.negatives": 4}, DEMO, few(5, 0)).space == {"loss.skcc.negatives": (2, 4)}


def test_a_skeleton_that_has_everything_changes_nothing() -> None:
    found = fit(SAMPLING, PAPER, DEMO, load_skeleton("coco"))
    assert (found.space, found.first, found.changes, found.notes) == (SAMPLING, PAPER, {}, [])
