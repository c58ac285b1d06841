"""A process that trains one run after another, as the actors of a sweep do, keeps none of them."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from icon_dist.launch.local import launch
from icon_dist.loggers.logger import Logger
from icon_dist.models import PoseNet
from icon_dist.training.loop import LOOP
from tests.support.training import tiny


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("zero", [*(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 2)), 1])
def test_a_finished_run_lets_go_of_its_model(people: Path, tmp_path: Path, zero: int) -> None:
    config = tiny(people, tmp_path, run__launcher="local", run__workers=1, run__zero=zero, optim__epochs=1)
    before = {id(thing) for thing in gc.get_objects() if isinstance(thing, PoseNet)}
    gc.disable()  # it comes by itself when it pleases
    try:
        launch(config, LOOP, Logger(f"{tmp_path}/{config.run.name}"))
        assert not [thing for thing in gc.get_objects() if isinstance(thing, PoseNet) and id(thing) not in before]
    finally:
        gc.enable()
