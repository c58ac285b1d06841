"""Every person once an epoch, counted: through a kill and through numbers of workers."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch.multiprocessing.spawn import ProcessExitedException

from icon_dist import distributed
from icon_dist.config import Config
from icon_dist.loggers.events import Report
from icon_dist.training.state import State
from tests.support.training import run_gang, tiny

SPLIT = {"optim__batch": 12, "data__streams": 12, "eval__every": 100, "run__record_samples": True}
STEPS = 64 // 12  # an epoch
KILL_AT = {4: 7, 1: 12}  # by number of workers, in the middle of the second and the third epoch


def train(config: Config, *, report: Report, device: str) -> None:
    """The last rank of a run named ``killed`` dies in the middle of an epoch, after its step and before its record."""
    from icon_dist.training import loop

    world, advance = distributed.world_size(), State.advance

    def deadly(self: State) -> None:
        advance(self)
        if config.run.name == "killed" and self.step == KILL_AT.get(world) and distributed.rank() == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "advance", deadly)
        loop.train(config, report=report, device=device)


def of(people: Path, folder: Path, name: str, *, world: int) -> Config:
    return tiny(people, folder, **SPLIT, run__name=name, run__workers=world, optim__micro_batch=12 // world)


def recorded(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "samples").glob("*.jsonl"))
    ends = [tuple(map(int, file.name.split("-")[:2])) for file in files]
    assert [first for first, _ in ends] == [0, *(last for _, last in ends[:-1])], "one after the other, none twice"
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def batches(folder: Path) -> list[tuple[int, list[int]]]:
    """(epoch, people) of every global batch, by step."""
    lines = recorded(folder)
    assert [line["step"] for line in lines] == list(range(1, 3 * STEPS + 1))
    return [(line["epoch"], sorted(person for part in line["people"] for person in part)) for line in lines]


def test_every_person_once_an_epoch_through_kills_and_worlds(people: Path, tmp_path: Path) -> None:
    loop = "tests.system.test_samples:train"
    run_gang(of(people, tmp_path, "straight", world=2), scratch=tmp_path, world=2, loop=loop)
    for world in (4, 1):
        with pytest.raises(ProcessExitedException, match="SIGKILL"):
            run_gang(of(people, tmp_path, "killed", world=world), scratch=tmp_path, world=world, loop=loop)
    run_gang(of(people, tmp_path, "killed", world=3), scratch=tmp_path, world=3, loop=loop)

    straight, killed = batches(tmp_path / "straight"), batches(tmp_path / "killed")
    assert straight == killed
    for epoch in range(3):
        read = Counter(person for at, batch in killed if at == epoch for person in batch)
        assert set(read.values()) == {1}
        assert read.total() == 12 * STEPS
