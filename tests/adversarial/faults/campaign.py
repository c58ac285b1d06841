"""Random faults against tiny runs: each case says what it did, and raises AssertionError if anything was lost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from icon_dist import storage
from icon_dist.checkpoints import checkpoint, manifest
from icon_dist.config import Config
from icon_dist.errors import CheckpointError
from icon_dist.training.loop import run_directory
from tests.adversarial.faults import through_ray
from tests.adversarial.faults.damage import KINDS, damage
from tests.adversarial.faults.harness import POINTS, End, Kill, end_of, start
from tests.support.s3 import Proxy
from tests.support.training import tiny

SMALL = {"run__checkpoint_every": 0.25, "run__record_samples": True, "optim__ema": 0.9, "eval__limit": 8}
KILLS = 3  # at most, in one case
EPOCHS, STEPS = 3, 12


class Campaign:
    """Straight runs to compare with, made when they are first needed."""

    def __init__(self, people: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._people = people
        self._straight: dict[tuple[int, int], End] = {}
        self._number = 0

    def config(self, name: str, *, world: int = 1, run_dir: str = "", epochs: int = EPOCHS) -> Config:
        place = run_dir or str(self.folder)
        return tiny(self._people, place, run__name=name, run__workers=world, optim__epochs=epochs, **SMALL)

    def straight(self, world: int, *, epochs: int = EPOCHS) -> End:
        if (world, epochs) not in self._straight:
            config = self.config(f"straight-{world}-{epochs}", world=world, epochs=epochs)
            assert start(config, world=world, folder=self.folder)
            self._straight[world, epochs] = end_of(config)
        return self._straight[world, epochs]

    def next_name(self) -> str:
        self._number += 1
        return f"case-{self._number}"

    # ------------------------------------------------------------------------------------------------------- cases

    def kill(self, rng: random.Random) -> str:
        """A few kills, then a run to the end: the same bits as without."""
        world = rng.choice([1, 2])
        name = self.next_name()
        said = self._killed(rng, [self.config(name, world=world)] * KILLS)
        self._finish(self.config(name, world=world), world)
        self._forget(name)
        return f"{world} ranks: {'; '.join(said)}"

    def resize(self, rng: random.Random) -> str:
        """Kills between changes of the number of ranks: everybody is read once an epoch."""
        name = self.next_name()
        worlds = [rng.choice([1, 2, 4]) for _ in range(KILLS)]
        said = self._killed(rng, [self.config(name, world=world) for world in worlds])
        assert start(self.config(name, world=1), world=1, folder=self.folder)
        assert end_of(self.config(name)).people == self.straight(1).people, "people lost or read twice"
        self._forget(name)
        return f"{worlds} ranks, then 1: {'; '.join(said)}"

    def corrupt(self, rng: random.Random) -> str:
        """The newest checkpoints damaged: the newest intact one is found, and what was skipped is named."""
        source = self.config("source")
        source = replace(source, run=replace(source.run, keep=4))
        run = Path(run_directory(source))
        if not run.exists():
            assert start(source, world=1, folder=self.folder)
        copy = self.folder / self.next_name()
        shutil.copytree(run, copy)
        entries = manifest.entries(str(copy))[::-1]
        bad = rng.randrange(1, len(entries) + 1)
        kind = rng.choice(list(KINDS))
        said = [damage(rng, Path(entry.uri), kind) for entry in entries[:bad]]
        warnings: list[str] = []
        try:
            found = checkpoint.find(str(copy), warn=warnings.append)
            assert found is not None
            assert bad < len(entries), "a damaged checkpoint was loaded"
            assert found.uri == entries[bad].uri, "not the newest intact one"
            for name in found.manifest["files"]:
                if name.endswith(".safetensors"):
                    found.tensors(name.removesuffix(".safetensors"))
        except CheckpointError:
            assert bad == len(entries), "an intact checkpoint was refused"
        for entry, done in zip(entries, said, strict=False):
            mine = [line for line in warnings if Path(entry.uri).name in line]
            assert len(mine) == 1, f"{entry.uri}: {len(mine)} lines of it"
            reason, file = mine[0].partition(": skipped: ")[2], done.split("/")[1].split()[0]
            assert reason
            assert file in reason or kind == "swapped", f"{done}: {mine[0]}"  # of two it names the first
        shutil.rmtree(copy)
        return "; ".join(said)

    def corrupt_and_resume(self, rng: random.Random) -> str:
        """Killed in the middle, its newest checkpoint damaged: the run goes on from the one before to the same bits."""
        name = self.next_name()
        config = self.config(name)
        said = self._killed(rng, [config])
        entries = [e for e in manifest.entries(run_directory(config)) if e.committed]
        if len(entries) > 1:
            said.append(damage(rng, Path(entries[-1].uri), rng.choice(list(KINDS))))
        self._finish(config, 1)
        self._forget(name)
        return "; ".join(said)

    def bad_s3(self, rng: random.Random) -> str:
        """A run on storage that fails 30 % of the requests and spoils 5 % of the bodies."""
        faults = ["503", "500", "reset", "cut", "corrupt", ""]
        with Proxy.between() as server:
            server.faults = rng.choices(faults, [12, 12, 6, 2.5, 2.5, 65], k=20000)
            self._finish(self.config(self.next_name(), run_dir="s3://test-bucket/faults"), 1)
            return f"{len(server.seen)} requests, 35 % of them spoilt"

    def outage(self, rng: random.Random) -> str:
        """Storage that is away: waited for, or the checkpoint stays on this machine until the next attempt sends it."""
        seconds, patience = rng.choice([(60.0, 60.0), (rng.uniform(5, 20), rng.uniform(0.5, 3))])
        begin, attempts = rng.randrange(5, 200), 1
        config = self.config(self.next_name(), run_dir="s3://test-bucket/faults")
        with Proxy.between() as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(self.folder / "cache"))
            server.away = begin, seconds
            while not start(config, world=1, folder=self.folder, patience=patience):
                attempts += 1
                assert attempts < 20, "it never ends"
            self._compare(end_of(config), self.straight(1))
        return f"away for {seconds:.0f} s at request {begin}, patience {patience:.1f} s: {attempts} attempts"

    def ray(self, rng: random.Random) -> str:
        """A worker of Ray Train killed at a random moment between its start and the end of the run."""
        name = self.next_name()
        config = self.config(name, world=2, epochs=through_ray.EPOCHS)
        said = through_ray.kill_a_worker(config, rng, folder=self.folder)
        self._compare(end_of(config), self.straight(2, epochs=through_ray.EPOCHS))
        self._forget(name)
        return said

    # ------------------------------------------------------------------------------------------------------ helpers

    def _killed(self, rng: random.Random, attempts: list[Config]) -> list[str]:
        said = []
        for config in attempts:
            world = config.run.workers
            point = rng.choice([*POINTS, "time", "time"])
            rank = 0 if point in ("file", "manifest", "tidy") else rng.randrange(world)
            at = rng.uniform(0, 2) if point == "time" else float(rng.randrange(1, STEPS))
            kill = Kill(point, at, rank)
            if start(config, world=world, folder=self.folder, kill=kill):
                said.append(f"{kill}, too late")
                break
            said.append(str(kill))
        return said

    def _finish(self, config: Config, world: int) -> None:
        assert start(config, world=world, folder=self.folder)
        end = end_of(config)
        self._compare(end, self.straight(world))
        assert end.logged == self.straight(world).logged, "metrics lost or written twice"

    def _compare(self, end: End, straight: End) -> None:
        assert end.step == straight.step
        assert end.digest == straight.digest, "other bits than an undisturbed run"
        assert end.people == straight.people, "people lost or read twice"

    def _forget(self, name: str) -> None:
        storage.delete(str(self.folder / name), tree=True)


CASES: dict[str, tuple[Callable[[Campaign, random.Random], str], float]] = {  # and how often
    "kill": (Campaign.kill, 0.4),
    "resize": (Campaign.resize, 0.15),
    "corrupt": (Campaign.corrupt, 0.25),
    "corrupt and resume": (Campaign.corrupt_and_resume, 0.15),
    "bad s3": (Campaign.bad_s3, 0.05),
    "outage": (Campaign.outage, 0.05),
    "ray": (Campaign.ray, 0.0),  # minutes each: --only ray
}
