"""Presets: the paper's values, and what each says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from icon_dist import config as configuration
from icon_dist.cli import PRESETS, presets
from icon_dist.config import Config, from_dict, load, to_yaml


def test_the_paper_has_its_presets() -> None:
    assert {"coco", "coco_384", "coco_r50", "coco_w48", "mpii", "crowdpose", "lsp", "demo"} <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_a_preset_loads_and_survives_its_ways_of_travel(name: str, tmp_path: Path) -> None:
    config = load(name)
    assert config.run.name == name
    assert from_dict(dataclasses.asdict(config)) == config
    (tmp_path / "printed.yaml").write_text(to_yaml(config))
    assert load(str(tmp_path / "printed.yaml")) == config


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_its_command_its_score_and_its_cost(name: str) -> None:
    lines = (PRESETS / f"{name}.yaml").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert lines[: len(header)] == header, "comments come first"
    assert any(line.split("  (")[0].rstrip().endswith(f"-m icon_dist.train --cfg {name}") for line in header)
    assert any(line.startswith("# Paper: ") for line in header)
    assert any(line.startswith("# Cost: ") for line in header)


def test_defaults_are_the_papers_values() -> None:
    """Loss weights, sampling, bank and optimizer of its experiments."""
    loss, optim = Config().loss, Config().optim
    assert (loss.lambda_1, loss.lambda_2, loss.lambda_p, loss.tau) == (0.3, 0.7, 1.0, 0.07)
    assert (loss.skcc.query, loss.skcc.queries, loss.skcc.negative, loss.skcc.negatives) == (
        "hard",
        5,
        "hard",
        6,
    )
    assert (loss.prcc.query, loss.prcc.queries, loss.prcc.negative, loss.prcc.negatives) == ("all", 8, "hard", 4)
    assert loss.bank.slots == 512
    assert (optim.batch, optim.micro_batch, optim.lr, optim.epochs, optim.milestones) == (64, 16, 1e-3, 210, (170, 200))


@pytest.mark.parametrize(
    ("name", "size", "sigma", "epochs", "milestones"),
    [
        ("coco", (256, 192), 2, 210, (170, 200)),
        ("coco_384", (384, 288), 3, 210, (170, 200)),
        ("coco_w48_384", (384, 288), 3, 210, (170, 200)),
        ("mpii", (256, 256), 2, 180, (146, 171)),
        ("mpii_384", (384, 384), 3, 180, (146, 171)),
        ("mpii_w48_384", (384, 384), 3, 180, (146, 171)),
        ("mpii_r152_384", (384, 384), 3, 180, (146, 171)),
        ("crowdpose", (256, 192), 2, 220, (178, 210)),
        ("crowdpose_384", (384, 288), 3, 220, (178, 210)),
    ],
)
def test_schedules_of_the_paper(
    name: str, size: tuple[int, int], sigma: float, epochs: int, milestones: tuple[int, ...]
) -> None:
    config = load(name)
    assert (config.input_hw, config.data.sigma) == (size, sigma)
    assert (config.optim.epochs, config.optim.milestones) == (epochs, milestones)
    assert (config.run.workers, configuration.micro_batch(config), config.optim.batch) == (4, 16, 64)
    assert (config.loss, config.optim.lr) == (Config().loss, 1e-3), "the paper's losses are the defaults"


def test_augmentation_of_coco_and_of_mpii() -> None:
    assert load("coco").data.augment == configuration.AugmentConfig(45, 0.35, 0.5, 0.3, 8)
    assert load("mpii").data.augment == configuration.AugmentConfig(30, 0.25, 0.5, 0, 8)
